"""Look up the rbtorrent ids of layers, without waiting long for a slow or dead database."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from cachetools import TTLCache
from sqlalchemy import Engine

from core.digest import Digest
from core.errors import DatabaseDown
from core.logs import OutageLog
from sql.layers import find_rbtorrent_ids
from sql.tables import Tables
from sql.transaction import reading
from web.limits import DatabasePause

WAIT_SECONDS = 0.5
"""How long a request waits for the database before its manifest is sent without ids."""

KEEP_SECONDS = 60.0
"""A layer's id never changes, but its row may be deleted."""

_MAX_KEPT = 100_000

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Lookup:
    """A request's layers. `ids` is None until the database has answered."""

    digests: Sequence[Digest]
    answered: threading.Event = field(default_factory=threading.Event)
    ids: dict[Digest, str] | None = None


class IdLookup:
    """Queries the database in one thread; requests that arrive meanwhile share the next query.

    Thread-safe.
    """

    def __init__(self, engine: Engine, tables: Tables, timer: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._tables = tables
        self._lock = threading.Lock()
        self._kept: TTLCache[Digest, str] = TTLCache(_MAX_KEPT, KEEP_SECONDS, timer)
        self._pause = DatabasePause(timer)
        self._outage = OutageLog(log, "lookup of ids", timer)
        self._lookups: queue.SimpleQueue[_Lookup | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ids", daemon=True)
        self._thread.start()

    def find(self, digests: Iterable[Digest]) -> tuple[dict[Digest, str], bool]:
        """Return the ids of brewed layers, and whether they are complete.

        They may be incomplete while the database does not answer.
        """
        wanted = dict.fromkeys(digests)
        with self._lock:
            ids = {digest: one for digest in wanted if (one := self._kept.get(digest)) is not None}
        unknown = [digest for digest in wanted if digest not in ids]
        if not unknown:
            return ids, True
        if not self._pause.may_query():
            return ids, False
        lookup = _Lookup(unknown)
        self._lookups.put(lookup)
        if not lookup.answered.wait(WAIT_SECONDS):
            self._outage.failed(f"the database did not answer within {WAIT_SECONDS:g} s")
        if lookup.ids is None:
            self._pause.failed()
            return ids, False
        return {**ids, **lookup.ids}, True

    def close(self) -> None:
        """End the thread, unless the database blocks it."""
        self._lookups.put(None)
        self._thread.join(WAIT_SECONDS)

    def _run(self) -> None:
        while (first := self._lookups.get()) is not None:
            batch, last = [first], False
            while not self._lookups.empty():
                more = self._lookups.get()
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._answer(batch)
            if last:
                return

    def _answer(self, batch: Sequence[_Lookup]) -> None:
        digests = {digest for lookup in batch for digest in lookup.digests}
        try:
            with reading(self._engine) as connection:
                ids = find_rbtorrent_ids(connection, self._tables, digests)
            with self._lock:
                self._kept.update(ids)
            self._pause.answered()
            self._outage.succeeded()
            for lookup in batch:
                lookup.ids = {digest: ids[digest] for digest in lookup.digests if digest in ids}
        except DatabaseDown as down:
            self._outage.failed(f"manifests are sent without ids: {down}")
        except Exception:
            log.exception("manifests are sent without ids, internal error")
        finally:
            for lookup in batch:
                lookup.answered.set()
