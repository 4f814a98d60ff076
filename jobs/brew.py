"""The brew job: claim chunks of layers, brew them in threads, and finish each layer separately."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass

from sqlalchemy import Connection

from core.digest import Digest
from core.errors import DatabaseDown
from core.logs import start_in_context
from core.torrents.brewing import Brewed
from jobs.brew_layer import LayerBrewer, Outcome
from jobs.held_locks import HeldLocks
from jobs.release_locks import release_locks
from jobs.service import Service
from sql.claims import Claim, claim_layers
from sql.enqueue import adopt_layers
from sql.history import Brews
from sql.queue_counts import count_waiting
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

_GRACE = 5.0
"""Seconds that a stopping run waits for its threads, whose locks it has already returned."""

_TICK = 0.2
"""Seconds between two checks of `stop` and of the locks."""


@dataclass
class BrewSummary:
    """The results of a run, in layers. `waiting` is None if the database did not answer at the end; `paused`
    is the outage that ended the run.
    """

    brewed: int = 0
    failed: int = 0
    returned: int = 0
    waiting: int | None = 0
    paused: str | None = None

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.brewed or self.failed or self.returned)

    def __str__(self) -> str:
        returned = f", returned {self.returned}" if self.returned else ""
        waiting = "unknown" if self.waiting is None else self.waiting
        paused = f", paused: {self.paused}" if self.paused else ""
        return f"brewed {self.brewed}, failed {self.failed}{returned}, waiting {waiting}{paused}"


def brew(service: Service) -> BrewSummary:
    """Brew until the queue is empty or the service is stopped. Raises DatabaseDown if the first claim fails.

    Locks of brewers that died are released first. At most `layers_per_chunk` layers are locked at once. While
    full chunks are claimed, the next one follows as soon as a worker is idle, so that one long layer does not
    delay the others. When the service is stopped, locked layers are returned at once.

    While the layer source or the metainfo store as a whole is down, the run pauses: layers go back to the
    queue without counting an attempt, and no further one is read. The run ends when none is in progress; the
    next one first probes what was down.
    """
    return _Run(service).run()


class _Run:
    """One run: the calling thread claims and renews, `workers` daemon threads brew.

    They are daemons because a read may block for as long as the source's time-out. A stopping brewer has
    returned its locks by then, so nothing is lost with the thread.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        self.config = service.config
        self.engine = service.database
        self.tables = service.tables
        self.stop = service.stop
        self.summary = BrewSummary()
        self.outages = service.brew_outages
        self.todo: queue.SimpleQueue[Digest | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        self.held = HeldLocks(
            self.engine,
            self.tables,
            service.clock,
            expires=self.config.brewer.brew_discard_timeout,
            outage=self.outages.database,
        )
        self.brewer = LayerBrewer(service, self.held, self._interrupted)
        self.threads: list[threading.Thread] = []
        self.in_progress = 0
        self.next_claim = 0.0
        self.over = False

    def run(self) -> BrewSummary:
        if self._passes(self.brewer.resume):
            self._brew_queue()
        self.summary.paused = self.brewer.paused
        try:
            with reading(self.engine) as connection:
                self.summary.waiting = count_waiting(connection, self.tables)
        except DatabaseDown as error:
            self.summary.waiting = None
            self.outages.database.failed(error)
        return self.summary

    def _brew_queue(self) -> None:
        try:
            release_locks(self.service)
            self._claim()
            if self.in_progress:
                self._passes(self.brewer.probe_store)
            while self.in_progress and not self.stop.is_set():
                self._start_workers()
                self._collect(timeout=_TICK)
                self.held.renew_if_due()
                if self.in_progress < self.config.brewer.workers:
                    self._claim_more()
        finally:
            self._end()

    def _claim(self) -> None:
        """Lock layers until there are `layers_per_chunk`, and put them on the workers' list."""
        wanted = self.config.brewer.layers_per_chunk - self.in_progress
        with transaction(self.engine) as connection:
            claims = self._claim_up_to(connection, wanted)
            if len(claims) < wanted:
                # Search for rows inserted by hand only when the queue is empty.
                now = self.service.now(connection)
                if adopt_layers(connection, self.tables, now=now, limit=wanted):
                    claims += self._claim_up_to(connection, wanted - len(claims))
        self.outages.database.succeeded()
        self.next_claim = time.monotonic() + (0.0 if len(claims) == wanted else self.config.brewer.sleep_time)
        self.held.add(claims)
        self.in_progress += len(claims)
        for claim in claims:
            self.todo.put(claim.digest)

    def _claim_up_to(self, connection: Connection, limit: int) -> list[Claim]:
        now, brewer = self.service.now(connection), self.service.brewer_name
        return claim_layers(connection, self.tables, now=now, limit=limit, brewer=brewer)

    def _claim_more(self) -> None:
        """Claim again when due; during an outage, when it is over."""
        if time.monotonic() < self.next_claim:
            return
        self.next_claim = time.monotonic() + self.config.brewer.sleep_time
        if not self._passes(self.brewer.resume):
            return
        try:
            self._claim()
        except DatabaseDown as error:
            self.outages.database.failed(error)

    def _passes(self, probe: Callable[[], bool]) -> bool:
        """Return what `probe` returns, False once `stop` is set. Raises its errors.

        It runs in a daemon thread, as a silent server takes several time-outs; locks are renewed meanwhile.
        """
        passed: Future[bool] = Future()

        def run() -> None:
            try:
                passed.set_result(probe())
            except Exception as error:  # noqa: BLE001 - raised in the calling thread
                passed.set_exception(error)

        start_in_context("probe", run)
        while not self.stop.is_set():
            wait([passed], timeout=_TICK)
            if passed.done():
                return passed.result()
            if self.in_progress:
                self.held.renew_if_due()
        return False

    def _start_workers(self) -> None:
        while len(self.threads) < min(self.config.brewer.workers, self.in_progress):
            self.threads.append(start_in_context(f"brew-{len(self.threads)}", self._work))

    def _collect(self, timeout: float) -> None:
        """Wait for an outcome, at most `timeout` seconds, and count all outcomes."""
        try:
            outcome = self.done.get(timeout=timeout)
            while True:
                self.in_progress -= 1
                if isinstance(outcome, Brewed):
                    self.summary.brewed += 1
                    self.service.brew_counter.add(Brews(brewed=1, bytes=outcome.size))
                elif outcome == "failed":
                    self.summary.failed += 1
                    self.service.brew_counter.add(Brews(failed=1))
                self.summary.returned += outcome == "returned"
                outcome = self.done.get_nowait()
        except queue.Empty:
            return

    def _end(self) -> None:
        self.over = True
        self.summary.returned += self.held.close()
        for _ in self.threads:
            self.todo.put(None)
        deadline = time.monotonic() + _GRACE
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._collect(timeout=0)

    def _interrupted(self) -> bool:
        return self.over or self.stop.is_set()

    def _work(self) -> None:
        while (digest := self.todo.get()) is not None and not self._interrupted():
            try:
                outcome = self.brewer.brew(digest)
            except Exception:
                # Its lock is returned at the end of the run; the other layers continue.
                log.exception("layer not finished, internal error digest=%s", digest)
                outcome = "failed"
            self.done.put(outcome)
