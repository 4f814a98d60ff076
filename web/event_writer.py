"""Writes the plans of events to the queue. Requests share transactions, so a burst needs few commits."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Engine

from core.errors import DatabaseBusy, DatabaseDown
from core.event_plan import Plan
from sql.enqueue import enqueue_layers
from sql.manifests import enqueue_manifests, mark_new_seen
from sql.missing_layers import suspect_layers
from sql.tables import Priority, Tables
from sql.transaction import Clock, database_time, transaction

WAIT_SECONDS = 5.0
"""How long a request waits for the transaction before its own. Registries time out after a second and repeat
the event; without a limit, a database that hangs would occupy all threads."""


@dataclass(eq=False)
class _Waiting:
    """A plan to be written. `failed` is why it was not committed, None if it was."""

    plan: Plan
    done: bool = False
    failed: DatabaseDown | None = field(default_factory=lambda: DatabaseDown("the write was interrupted"))


class EventWriter:
    """Enqueues plans with the priority of a push. Thread-safe."""

    def __init__(self, engine: Engine, tables: Tables, clock: Clock = database_time) -> None:
        self._engine = engine
        self._tables = tables
        self._clock = clock
        self._arrivals = threading.Lock()
        self._arrived: list[_Waiting] = []
        self._writing = threading.Lock()

    def write(self, plan: Plan) -> None:
        """Write the plan, and return when it is committed. After DatabaseDown it may be written again."""
        waiting = _Waiting(plan)
        with self._arrivals:
            self._arrived.append(waiting)
        if not self._writing.acquire(timeout=WAIT_SECONDS):
            raise DatabaseBusy("earlier events are still being written")
        try:
            # The thread that had the lock before may have written this plan with its own.
            if not waiting.done:
                self._write_arrived()
        finally:
            self._writing.release()
        if waiting.failed is not None:
            # The threads of a batch share the error, not its traceback.
            raise waiting.failed.with_traceback(None)

    def _write_arrived(self) -> None:
        with self._arrivals:
            batch, self._arrived = self._arrived, []
        failed: DatabaseDown | None = None
        try:
            self._write([waiting.plan for waiting in batch])
        except DatabaseDown as down:
            failed = down
        finally:
            for waiting in batch:
                waiting.done = True
        for waiting in batch:
            waiting.failed = failed

    def _write(self, plans: Sequence[Plan]) -> None:
        layers = [layer for plan in plans for layer in plan.layers]
        malformed = [layer for plan in plans for layer in plan.malformed]
        manifests = [manifest for plan in plans for manifest in plan.manifests]
        known = [manifest for plan in plans for manifest in plan.known]
        deleted = [digest for plan in plans for digest in plan.deleted]
        with transaction(self._engine) as connection:
            now = self._clock(connection)
            if deleted:
                suspect_layers(connection, self._tables, deleted, now=now)
            if layers or malformed:
                enqueue_layers(
                    connection, self._tables, layers, priority=Priority.PUSHED, now=now, malformed=malformed
                )
            if manifests:
                enqueue_manifests(connection, self._tables, manifests, priority=Priority.PUSHED, now=now)
            if known:
                mark_new_seen(connection, self._tables, known, now=now)
