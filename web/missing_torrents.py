"""Layers whose torrent is not in the store: determine why, and queue them.

Lost torrents are queued again; blobs that no manifest has named are not, since the registry grants access to
any blob, also configs. Many requests for one layer may arrive at once: an answer is cached for some seconds,
and one request queries the database while the others wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from cachetools import TTLCache
from sqlalchemy import Engine

from core.digest import Digest
from core.errors import DatabaseDown, MetainfoMissing
from core.layer import Layer
from core.logs import OutageLog
from core.torrents.store import MetainfoStore
from sql.enqueue import enqueue_layers
from sql.layers import known_layers
from sql.requeue import BrewedLayer, find_brewed_layer, requeue_brewed
from sql.tables import Priority, Tables
from sql.transaction import Clock, database_time, reading, transaction
from web.limits import DatabasePause

WAIT_SECONDS = 0.5
"""How long a request waits for the one that queries the database."""

KEEP_SECONDS = 5.0
"""How long an answer is cached."""

REPEAT_SECONDS = 3600.0
"""A lost layer is not queued again for this long, unless its torrent was found meanwhile: if this process and
the brewers use different stores, brewing does not help."""

_MAX_KEPT = 100_000
_LOCKS = 16

Why = Literal["not brewed", "not known", "brewed again", "made elsewhere", "not stored"]
"""Not brewed yet, or the database did not answer; named by no manifest, event or scan so far; lost, and
queued again; its id was taken over from an older service, which has its torrent; brewed again, but still not
in the store."""

log = logging.getLogger(__name__)


class MissingTorrents:
    """Thread-safe."""

    def __init__(
        self,
        engine: Engine,
        tables: Tables,
        store: MetainfoStore,
        clock: Clock = database_time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._store = store
        self._clock = clock
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))
        self._pause = DatabasePause(timer)
        self._outage = OutageLog(log, "queueing of requested torrents")
        self._caches = threading.Lock()
        self._answers: TTLCache[Digest, Why] = TTLCache(_MAX_KEPT, KEEP_SECONDS, timer)
        self._queued: TTLCache[Digest, bool] = TTLCache(_MAX_KEPT, REPEAT_SECONDS, timer)

    def request(self, scope: str, digest: Digest) -> bytes | Why:
        """Return why the store lacks the layer's metainfo; or the metainfo, if it has just been stored.

        Never raises DatabaseDown. Raises StoreFailed.
        """
        why = self._recent(digest)
        lock = self._locks[int(digest.short, 16) % _LOCKS]
        if why is not None or not lock.acquire(timeout=WAIT_SECONDS):
            return why or "not brewed"
        try:
            # An earlier request may have determined it.
            why = self._recent(digest)
            if why is not None or not self._pause.may_query():
                return why or "not brewed"
            found = self._determine(scope, digest)
            self._pause.answered()
            self._outage.succeeded()
            if not isinstance(found, bytes):
                with self._caches:
                    self._answers[digest] = found
            return found
        except DatabaseDown as error:
            self._pause.failed()
            self._outage.failed(f"layer {digest} of {scope} not queued: {error}")
            return "not brewed"
        finally:
            lock.release()

    def found(self, digest: Digest) -> None:
        """Record that the layer's metainfo is in the store, and drop a cached answer."""
        if not (self._answers or self._queued):
            return
        with self._caches:
            self._answers.pop(digest, None)
            self._queued.pop(digest, None)

    def _recent(self, digest: Digest) -> Why | None:
        with self._caches:
            return self._answers.get(digest)

    def _determine(self, scope: str, digest: Digest) -> bytes | Why:
        with reading(self._engine) as connection:
            brewed = find_brewed_layer(connection, self._tables, digest)
            known = brewed or known_layers(connection, self._tables, [digest])
        if not known:
            return "not known"
        if brewed is None:
            self._enqueue(scope, digest)
            return "not brewed"
        if not brewed.here:
            return "made elsewhere"
        # Metainfo is stored before its layer is marked as brewed: if it is missing now, it is lost.
        with suppress(MetainfoMissing):
            return self._store.get(digest)
        return self._brew_again(scope, digest, brewed)

    def _brew_again(self, scope: str, digest: Digest, brewed: BrewedLayer) -> Why:
        with self._caches:
            repeated = digest in self._queued
        if repeated:
            log.error("metainfo brewed again is not in the store: do brewers use another? digest=%s", digest)
            return "not stored"
        with transaction(self._engine) as connection:
            now = self._clock(connection)
            lost = requeue_brewed(connection, self._tables, [brewed], priority=Priority.ASKED, now=now)
        if lost:
            log.warning("metainfo lost, layer queued digest=%s scope=%s", digest, scope)
        with self._caches:
            self._queued[digest] = True
        # In a separate transaction, as it may wait for one that removes the layer.
        self._enqueue(scope, digest)
        return "brewed again"

    def _enqueue(self, scope: str, digest: Digest) -> None:
        """Queue the layer with priority over pushed and scanned ones, unless it is brewed."""
        layers = [Layer(digest, (scope,))]
        with transaction(self._engine) as connection:
            now = self._clock(connection)
            enqueue_layers(connection, self._tables, layers, priority=Priority.ASKED, now=now)
