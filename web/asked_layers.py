"""Layers that somebody asks for and that have no torrent yet, on their way into the queue.

They are written by a thread of its own, so that no manifest waits for a write or fails because of one. What
cannot be written is dropped, logged and counted: whoever asks for the manifest again asks for them again.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import sqlalchemy as sa

from core.errors import DatabaseDown
from core.manifests.manifest import LayerDescriptor
from sql.enqueue import NewLayer, enqueue_layers
from sql.tables import Priority, Tables
from sql.transaction import transaction

MOST_WAITING = 20_000
"""Layers that wait to be written; beyond it they are dropped."""

AGAIN_SECONDS = 60.0
"""A layer that was put down is not put down again for so long: many nodes ask for one image at once."""

_MOST_REMEMBERED = 100_000
_END_SECONDS = 2.0

log = logging.getLogger(__name__)

_Asked = tuple[str, str]


class AskedLayers:
    """Takes layers from several threads. `clock` gives Unix seconds."""

    def __init__(self, engine: sa.Engine, tables: Tables, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._tables = tables
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: dict[_Asked, NewLayer] = {}
        self._lately: OrderedDict[_Asked, float] = OrderedDict()
        self._closing = False
        self.dropped = 0
        self._thread = self._start()

    def put(self, scope: str, layers: Iterable[LayerDescriptor]) -> int:
        """Have these layers of this repository brewed before all others. Returns at once, with how many
        will be put down: not those that lately were.
        """
        dropped = taken = 0
        with self._changed:
            now = self._clock()
            for layer in layers:
                asked = (scope, str(layer.digest))
                if self._lately.get(asked, float("-inf")) > now:
                    continue
                if len(self._waiting) >= MOST_WAITING:
                    dropped += 1
                    continue
                self._waiting[asked] = NewLayer(asked[1], layer.size, scope)
                self._lately[asked] = now + AGAIN_SECONDS
                self._lately.move_to_end(asked)
                taken += 1
            while len(self._lately) > _MOST_REMEMBERED:
                self._lately.popitem(last=False)
            self.dropped += dropped
            if taken and not self._thread.is_alive():
                # An error that nobody foresaw ended it, and was told by threading.excepthook.
                self._thread = self._start()
            self._changed.notify()
        if dropped:
            log.warning("layers not queued: too many wait scope=%s dropped=%d", scope, dropped)
        return taken

    def close(self) -> None:
        """Write what waits, and end the thread, unless the database holds it."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_END_SECONDS)

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._write, name="asked", daemon=True)
        thread.start()
        return thread

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                taken, self._waiting = self._waiting, {}
                if not taken:
                    return
            self._write_together(list(taken.values()))

    def _write_together(self, layers: Sequence[NewLayer]) -> None:
        try:
            with transaction(self._engine) as connection:
                enqueue_layers(
                    connection, self._tables, layers, priority=Priority.ASKED, now=int(self._clock())
                )
        except DatabaseDown as down:
            self._drop(layers, str(down))
        except sa.exc.SQLAlchemyError as error:
            # A table that is not there, say: this thread has to live.
            self._drop(layers, type(error).__name__)

    def _drop(self, layers: Sequence[NewLayer], why: str) -> None:
        with self._changed:
            self.dropped += len(layers)
            for layer in layers:
                self._lately.pop((layer.scope or "", layer.digest), None)
        log.warning("layers not queued dropped=%d reason=%s", len(layers), why)
