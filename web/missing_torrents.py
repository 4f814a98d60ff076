"""Layers whose torrent is asked for and not in the store: why that is, and what can be done to have it there.

They go to the head of the queue, lost ones too; but not what nobody has named as a layer so far: the registry
says of any blob that a caller may have it, of configs too. Many ask for one layer at once: so an answer is
kept for a while, and of those who ask for the same, one is with the database, and the others wait a moment.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

import sqlalchemy as sa

from core.blobs.recent import Recent
from core.digest import Digest
from core.errors import DatabaseDown, MetainfoMissing
from core.torrents.store import MetainfoStore
from sql.enqueue import NewLayer, enqueue_layers
from sql.layers import known_layers
from sql.requeue import BrewedLayer, find_brewed_layer, requeue_brewed
from sql.tables import Priority, Tables
from sql.transaction import reading, transaction

PATIENCE_SECONDS = 0.5
"""How long a request waits for the one that is with the database."""

PAUSE_SECONDS = 2.0
"""How long the database is left alone once it did not answer."""

KEPT_SECONDS = 5.0
"""How long an answer is given again without a look."""

ONCE_SECONDS = 3600.0
"""A lost layer is not queued again for so long, unless its torrent was there meanwhile: this process and the
brewers may have different stores, and then brewing helps nobody."""

_KEPT = 100_000
_AT_ONCE = 16

Why = Literal["not brewed", "not known", "brewed again", "made elsewhere", "not stored"]
"""Nobody has brewed it yet, as far as is known; no manifest, event or scan has named it; it was lost, and is
queued; an older service has given it its id, and its torrent; it is brewed, again and again, and the store
does not have it.
"""

log = logging.getLogger(__name__)


class MissingTorrents:
    """`clock` gives Unix seconds. May be used from several threads."""

    def __init__(
        self, engine: sa.Engine, tables: Tables, store: MetainfoStore, clock: Callable[[], float]
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._store = store
        self._clock = clock
        self._asking = tuple(threading.Lock() for _ in range(_AT_ONCE))
        self._told: Recent[tuple[Why, float]] = Recent(_KEPT)
        self._queued: Recent[float] = Recent(_KEPT)
        self._down_until = float("-inf")

    def ask_for(self, scope: str, digest: Digest) -> bytes | Why:
        """Why the store lacks the layer's metainfo; or the metainfo, if it has just come.

        No answer fails because the database does. Raises StoreFailed.
        """
        why = self._lately(digest)
        asking = self._asking[int(digest.short, 16) % _AT_ONCE]
        if why is not None or not asking.acquire(timeout=PATIENCE_SECONDS):
            return why or "not brewed"
        try:
            # Whoever was there before may have found it out, or that there is nobody to ask.
            why = self._lately(digest)
            if why is not None or self._clock() < self._down_until:
                return why or "not brewed"
            found = self._find_out(scope, digest)
            if not isinstance(found, bytes):
                self._told.put(digest, (found, self._clock() + KEPT_SECONDS))
            return found
        except DatabaseDown as down:
            return self._not_queued(scope, digest, str(down))
        except sa.exc.SQLAlchemyError as error:
            # A table that is not there, say.
            return self._not_queued(scope, digest, type(error).__name__)
        finally:
            asking.release()

    def is_there(self, digest: Digest) -> None:
        """The layer's metainfo is in the store: what was found out before no longer counts."""
        self._told.forget(digest)
        self._queued.forget(digest)

    def _lately(self, digest: Digest) -> Why | None:
        told = self._told.get(digest)
        return told[0] if told is not None and self._clock() < told[1] else None

    def _not_queued(self, scope: str, digest: Digest, reason: str) -> Why:
        self._down_until = self._clock() + PAUSE_SECONDS
        log.warning("layer not queued digest=%s scope=%s reason=%s", digest, scope, reason)
        return "not brewed"

    def _find_out(self, scope: str, digest: Digest) -> bytes | Why:
        with reading(self._engine) as connection:
            brewed = find_brewed_layer(connection, self._tables, str(digest))
            known = brewed or known_layers(connection, self._tables, [str(digest)])
        if not known:
            return "not known"
        if brewed is None:
            self._enqueue(scope, digest)
            return "not brewed"
        if not brewed.here:
            return "made elsewhere"
        # Metainfo is stored before its layer is marked: if it is not there now, it is not on its way.
        with suppress(MetainfoMissing):
            return self._store.get(digest)
        return self._brew_again(scope, digest, brewed)

    def _brew_again(self, scope: str, digest: Digest, brewed: BrewedLayer) -> Why:
        now = self._clock()
        if now < (self._queued.get(digest) or float("-inf")):
            log.error("metainfo brewed again is not in the store, do brewers use another? digest=%s", digest)
            return "not stored"
        with transaction(self._engine) as connection:
            lost = requeue_brewed(connection, self._tables, [brewed], priority=Priority.ASKED, now=int(now))
        if lost:
            log.warning("metainfo lost, layer queued digest=%s scope=%s", digest, scope)
        self._queued.put(digest, now + ONCE_SECONDS)
        # In a transaction of its own, for it may wait for one that forgets the layer.
        self._enqueue(scope, digest)
        return "brewed again"

    def _enqueue(self, scope: str, digest: Digest) -> None:
        """Have the layer brewed before all that nobody waits for, unless it is brewed."""
        layers = [NewLayer(str(digest), None, scope)]
        with transaction(self._engine) as connection:
            enqueue_layers(connection, self._tables, layers, priority=Priority.ASKED, now=int(self._clock()))
