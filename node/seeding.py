"""The verified layers that this node seeds: their torrents, and announcing them to the service."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from core.digest import Digest
from core.errors import CacheFailed, DockerTorrentsError, RemoteError
from core.swarm.bitmap import Bitmap
from core.swarm.chunks import Chunks
from core.swarm.messages import MAX_SEEDS, SEEDS_INTERVAL, Seed, SeedsRequest, SwarmRequest
from node.cache import Cache
from node.counters import Counters
from node.metainfo import Metainfo, parse_metainfo
from node.origin import Origin, PulledLayer
from node.session import Session, Torrent, TorrentListener
from node.swarm_client import SwarmAddress, SwarmClient, SwarmService, renewed

log = logging.getLogger(__name__)

_START_PAUSE = 0.01
"""Seconds between restarts of two torrents."""
_RETRY_SECONDS = 60.0
_LEAVE_SECONDS = 3.0
_REFUSED = (
    "the service refuses their capabilities, which have expired or were signed with another "
    "torrents.web_seed_secret: the next pull or `mirror prefetch` on this machine renews them"
)
_MAX_LEFT_ON_STOP = 50
"""The most layers whose swarms the node leaves explicitly when it stops."""


class _Listener(TorrentListener):
    """Listens to a complete torrent, for failures only."""

    def __init__(self, failed: Callable[[str], None]) -> None:
        self._failed = failed

    def on_checked(self, pieces: Sequence[bool]) -> None:
        if not all(pieces):
            self._failed("pieces are missing")

    def on_hash_failed(self, piece: int) -> None:
        self._failed(f"piece {piece} is damaged")

    def on_failed(self, why: str) -> None:
        self._failed(why)


@dataclass(slots=True)
class _Seeded:
    metainfo: Metainfo
    torrent: Torrent
    listener: _Listener


class Seeding:
    """Seeds the cache's verified layers that have a torrent. Thread-safe."""

    def __init__(self, session: Session, cache: Cache, service: SwarmService, counters: Counters) -> None:
        self._session = session
        self._cache = cache
        self._service = service
        self._counters = counters
        self._seeded: dict[Digest, _Seeded] = {}
        self._unannounced: set[Digest] = set()
        """Layers that are complete but not announced yet."""
        self._to_leave: dict[Digest, Metainfo] = {}
        """Removed layers whose swarms this node has yet to leave."""
        self._refused: set[Digest] = set()
        """Seeded layers whose capabilities the service refused."""
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="seeding", daemon=True)

    def start(self) -> None:
        """Start seeding cached layers, the most recently used first, and announce them. Return at once."""
        self._thread.start()

    def adopt(self, digest: Digest, metainfo: Metainfo, torrent: Torrent) -> None:
        """Take over the torrent of a layer that was just verified."""
        listener = self._listener(digest)
        with self._changed:
            self._seeded[digest] = _Seeded(metainfo, torrent, listener)
            self._session.listen(torrent, listener)
            self._unannounced.add(digest)
            self._to_leave.pop(digest, None)
            self._changed.notify_all()

    def renew(self, layer: PulledLayer, origin: Origin) -> None:
        """Announce a cached layer whose capability was refused, with the one in the torrent of `origin`."""
        with self._changed:
            if layer.digest not in self._refused:
                return
            metainfo = self._seeded[layer.digest].metainfo
        if (data := origin.torrent()) is None:
            return
        try:
            address = SwarmAddress.of(parse_metainfo(data, layer.digest, layer.size).web_seeds)
        except ValueError:
            return
        if address is not None:
            self._renew(layer.digest, metainfo, address)
            with self._changed:
                self._unannounced.add(layer.digest)
                self._changed.notify_all()

    def forget(self, digest: Digest) -> None:
        """Stop seeding a layer whose file was removed."""
        with self._changed:
            self._forget(digest)

    def peers(self) -> dict[Digest, tuple[int, int]]:
        """Return the layers being seeded, with their sizes and numbers of peers."""
        with self._changed:
            seeded = dict(self._seeded)
        return {digest: (one.metainfo.size, one.torrent.status().peers) for digest, one in seeded.items()}

    @property
    def uploaded(self) -> int:
        """Return the bytes of currently seeded layers sent to peers."""
        with self._changed:
            seeded = list(self._seeded.values())
        return sum(one.torrent.status().uploaded for one in seeded)

    def close(self) -> None:
        """Notify the service within a few seconds that the node leaves. Torrents end with the session."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()
        until = time.monotonic() + _LEAVE_SECONDS
        for digest, metainfo in self._recent()[:_MAX_LEFT_ON_STOP]:
            if time.monotonic() > until or not self._call(digest, metainfo, stopped=True):
                return

    def _run(self) -> None:
        self._resume()
        due = time.monotonic()
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closed or self._unannounced or self._to_leave,
                    max(0.0, due - time.monotonic()),
                )
                if self._closed:
                    return
                new, self._unannounced = self._unannounced, set()
                left, self._to_leave = self._to_leave, {}
                complete = {digest: self._seeded[digest].metainfo for digest in new & self._seeded.keys()}
            for digest, metainfo in complete.items():
                self._call(digest, metainfo)
            for digest, metainfo in left.items():
                if not self._call(digest, metainfo, stopped=True):
                    # The service drops this node anyway after an hour.
                    break
            if time.monotonic() >= due:
                due = time.monotonic() + self._announce()

    def _resume(self) -> None:
        for entry in reversed(self._cache.entries()):
            with self._changed:
                if self._closed:
                    return
            data = self._cache.saved_metadata(entry.digest)
            if data is None:
                continue
            try:
                metainfo = parse_metainfo(data, entry.digest, entry.size)
                with self._changed:
                    if entry.digest not in self._seeded:
                        self._add(entry.digest, metainfo)
            except (ValueError, RuntimeError) as error:
                log.warning("layer not seeded digest=%s reason=%s", entry.digest, error)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, _START_PAUSE)

    def _add(self, digest: Digest, metainfo: Metainfo) -> None:
        folder = self._cache.directory / "layers"
        listener = self._listener(digest)
        torrent = self._session.add(metainfo, folder, listener, verified=True)
        self._seeded[digest] = _Seeded(metainfo, torrent, listener)

    def _listener(self, digest: Digest) -> _Listener:
        def failed(why: str) -> None:
            # In another thread: the session's own must not wait for it.
            drop = partial(self._drop_damaged, digest, listener, why)
            threading.Thread(target=drop, name="damaged layer", daemon=True).start()

        listener = _Listener(failed)
        return listener

    def _drop_damaged(self, digest: Digest, listener: _Listener, why: str) -> None:
        """Stop seeding and serving a damaged layer, unless it was downloaded again since."""
        with self._changed:
            seeded = self._seeded.get(digest)
            if seeded is None or seeded.listener is not listener:
                return
            log.warning("layer is damaged, no longer seeded or served digest=%s reason=%s", digest, why)
            with suppress(CacheFailed):
                self._cache.mark_damaged(digest)
            self._forget(digest)

    def _forget(self, digest: Digest) -> None:
        """Stop seeding a layer. The lock is held."""
        seeded = self._seeded.pop(digest, None)
        if seeded is None:
            return
        self._unannounced.discard(digest)
        self._refused.discard(digest)
        self._to_leave[digest] = seeded.metainfo
        self._changed.notify_all()
        self._counters.uploaded(seeded.torrent.status().uploaded)
        self._session.remove(seeded.torrent)

    def _recent(self) -> list[tuple[Digest, Metainfo]]:
        """Return the seeded layers, the most recently used first."""
        used = [entry.digest for entry in reversed(self._cache.entries())]
        with self._changed:
            return [(digest, self._seeded[digest].metainfo) for digest in used if digest in self._seeded]

    def _announce(self) -> float:
        """Announce the most recently used layers, one call a service. Return the pause in seconds."""
        by_service: dict[str, list[tuple[Digest, SwarmAddress, Metainfo]]] = defaultdict(list)
        for digest, metainfo in self._recent():
            if (address := SwarmAddress.of(metainfo.web_seeds)) is not None:
                by_service[address.base].append((digest, address, metainfo))
        pause = SEEDS_INTERVAL
        refused: set[Digest] = set()
        for base, layers in by_service.items():
            layers = layers[:MAX_SEEDS]
            seeds = [
                Seed(
                    capability=address.capability,
                    hex=digest.hex,
                    chunks=Chunks.of(metainfo.size, metainfo.piece_length).count,
                )
                for digest, address, metainfo in layers
            ]
            try:
                answer = self._service.announce(
                    base, SeedsRequest(node=self._session.node, port=self._session.port, layers=seeds)
                )
            except RemoteError:
                pause = min(pause, _RETRY_SECONDS)
                continue
            pause = max(pause, answer.again)
            for (digest, _, metainfo), capability in zip(layers, answer.capabilities, strict=False):
                if capability is not None:
                    self._renew(digest, metainfo, SwarmAddress(base, capability))
                else:
                    refused.add(digest)
        with self._changed:
            refused &= self._seeded.keys()
            newly_refused = refused - self._refused
            self._refused |= refused
        if newly_refused:
            log.warning("cached layers not announced number=%d reason=%s", len(refused), _REFUSED)
        return pause

    def _renew(self, digest: Digest, metainfo: Metainfo, address: SwarmAddress) -> None:
        newest = renewed(metainfo, address, digest)
        with self._changed:
            if digest not in self._seeded:
                return
            self._seeded[digest].metainfo = newest
            self._refused.discard(digest)
        try:
            self._cache.save_metadata(digest, newest.encode())
        except DockerTorrentsError as error:
            log.warning("capability not stored reason=%s", error)

    def _call(self, digest: Digest, metainfo: Metainfo, *, stopped: bool = False) -> bool:
        """Announce a complete layer, or that its swarm is left. Return whether the service answered."""
        address = SwarmAddress.of(metainfo.web_seeds)
        if address is None:
            return True
        chunks = Chunks.of(metainfo.size, metainfo.piece_length).count
        request = SwarmRequest(
            node=self._session.node,
            port=self._session.port,
            chunks=chunks,
            held=Bitmap.full(chunks).to_base64(),
            complete=True,
            stopped=stopped,
            want=0,
        )
        try:
            SwarmClient(self._service, address, digest).call(request)
        except RemoteError:
            return False
        return True
