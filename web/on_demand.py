"""Requested layers without a torrent, on their way to the head of the queue.

A thread writes them, so that no manifest waits for a write or fails because of one. Layers that cannot be
written are dropped, logged and counted: the next request for their manifest adds them again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from cachetools import TTLCache
from sqlalchemy import Engine

from core.digest import Digest
from core.errors import DatabaseDown
from core.layer import Layer
from core.logs import OutageLog
from core.manifests.manifest import LayerDescriptor
from sql.enqueue import enqueue_layers
from sql.tables import Priority, Tables
from sql.transaction import Clock, database_time, transaction

MAX_WAITING = 20_000
"""Layers that wait to be written; further ones are dropped."""

REPEAT_SECONDS = 60.0
"""A layer is not written again for this long, as many nodes request one image at once."""

_MAX_REMEMBERED = 100_000
_CLOSE_SECONDS = 2.0

log = logging.getLogger(__name__)


class OnDemandQueue:
    """Accepts layers from several threads."""

    def __init__(
        self,
        engine: Engine,
        tables: Tables,
        clock: Clock = database_time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._clock = clock
        self._outage = OutageLog(log, "queueing on demand")
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, Digest], Layer] = {}
        self._written: TTLCache[tuple[str, Digest], bool] = TTLCache(_MAX_REMEMBERED, REPEAT_SECONDS, timer)
        self._closing = False
        self.dropped = 0
        self._thread = threading.Thread(target=self._write, name="on-demand", daemon=True)
        self._thread.start()

    def put(self, scope: str, layers: Iterable[LayerDescriptor]) -> int:
        """Request that these layers of this repository are brewed before all others.

        Return at once the number of layers that will be written, without recently written ones.
        """
        dropped = taken = 0
        with self._changed:
            for layer in layers:
                key = (scope, layer.digest)
                if key in self._written:
                    continue
                if len(self._waiting) >= MAX_WAITING:
                    dropped += 1
                    continue
                self._waiting[key] = Layer(layer.digest, (scope,), layer.size)
                self._written[key] = True
                taken += 1
            self.dropped += dropped
            self._changed.notify()
        if dropped:
            log.warning("layers not queued: too many are waiting scope=%s dropped=%d", scope, dropped)
        return taken

    def close(self) -> None:
        """Write the waiting layers, and end the thread, unless the database blocks it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_SECONDS)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                taken, self._waiting = self._waiting, {}
            if not taken:
                return
            self._write_batch(list(taken.values()))

    def _write_batch(self, layers: Sequence[Layer]) -> None:
        try:
            with transaction(self._engine) as connection:
                now = self._clock(connection)
                enqueue_layers(connection, self._tables, layers, priority=Priority.ASKED, now=now)
        except Exception as error:
            with self._changed:
                self.dropped += len(layers)
                for layer in layers:
                    self._written.pop((layer.scopes[0], layer.digest), None)
            if isinstance(error, DatabaseDown):
                self._outage.failed(f"layers wait for the next request of their manifest: {error}")
            else:
                log.exception("layers wait for the next request of their manifest, internal error")
        else:
            self._outage.succeeded()
