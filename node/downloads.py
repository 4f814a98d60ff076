"""All downloads of this node, one per digest, and the readers that wait for their bytes."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from typing import Self

from cachetools import TTLCache

from core.blobs.source import BlobReader
from core.digest import Digest
from core.errors import CacheFailed, ConnectionCut, Interrupted
from core.http.client import HttpClient
from core.logs import OutageLog
from node.cache import Cache
from node.cache_files import CachedLayer
from node.counters import Counters, Totals
from node.download import Download, SharedServices
from node.fallback import ReaderState
from node.fetch import WebSeedOutages
from node.origin import Origin, PulledLayer
from node.seeding import Seeding
from node.session import Session
from node.status import DownloadStatus
from node.swarm_client import SwarmService

log = logging.getLogger(__name__)

_FAILED_SECONDS = 300.0
"""How long failed downloads are shown."""
_WITHOUT_CACHE_SECONDS = 30.0
"""How long a layer that could not be cached is passed through before the cache is tried again."""
_WITHOUT_TORRENT_SECONDS = 600.0
"""How long a torrent of wrong bytes is not used again."""
_MAX_REMEMBERED = 10_000


class Reader:
    """One caller's view of a layer. For one thread; close it when done.

    with downloads.open(layer, origin) as reader:
        while data := reader.read(offset, 65536, timeout=30): ...
    """

    def __init__(
        self, layer: PulledLayer, origin: Origin, end: int, counters: Counters, *,
        download: Download | None = None, state: ReaderState | None = None, cached: CachedLayer | None = None,
    ) -> None:  # fmt: skip
        self.size = layer.size
        self._digest = layer.digest
        self._download = download
        self._state = state
        self._cached = cached
        self._pass_through = _PassThrough(origin, end, counters)
        self._counters = counters

    def read(self, offset: int, limit: int, timeout: float) -> bytes:
        """Return 1 to `limit` bytes from `offset` on, waiting until they are available; b"" only at the end.

        Any order of offsets is allowed. Raises RemoteError or LayerError if the layer cannot be downloaded,
        TimedOut after `timeout` seconds without a byte.
        """
        if self._cached is not None:
            try:
                data = self._cached.read(offset, limit)
            except OSError as error:
                log.warning("layer not read from the cache digest=%s reason=%s", self._digest, error.strerror)
                self._counters.fell_back("disk_error")
                self._leave()
            else:
                self._counters.received("cache", len(data))
                return data
        if self._download is not None and self._state is not None:
            try:
                return self._download.readers.read(self._state, offset, limit, timeout)
            except CacheFailed:
                # Problems of the disk do not concern the caller.
                self._leave()
        return self._pass_through.read(offset, limit)

    @property
    def downloaded(self) -> int | None:
        """The bytes that the running download has, None without one."""
        if self._download is None or self._download.state == "failed":
            return None
        return self._download.done

    def close(self) -> None:
        """Leave. The download continues without this reader."""
        self._leave()
        self._pass_through.close()

    def _leave(self) -> None:
        if self._download is not None and self._state is not None:
            self._download.readers.leave(self._state)
        if self._cached is not None:
            self._cached.close()
        self._download = self._cached = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _PassThrough:
    """A layer read from the registry for one caller, up to `end`, and not cached."""

    def __init__(self, origin: Origin, end: int, counters: Counters) -> None:
        self._origin = origin
        self._end = end
        self._counters = counters
        self._body: BlobReader | None = None
        self._offset = 0

    def read(self, offset: int, limit: int) -> bytes:
        """Return 1 to `limit` bytes at `offset`, b"" at the end. Raises RemoteError."""
        if offset >= self._end or limit <= 0:
            return b""
        if self._body is None or self._offset != offset:
            self.close()
            self._body, self._offset = self._origin.open(offset, self._end - offset), offset
        buffer = bytearray(min(limit, self._end - offset))
        count = self._body.readinto(memoryview(buffer))
        if not count:
            raise ConnectionCut("registry", offset, "the body ended")
        self._offset += count
        self._counters.received("registry", count)
        return bytes(buffer[:count])

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
            self._body = None


class Downloads:
    """Starts, joins and ends downloads. Thread-safe.

    Layers below `min_size` bytes never use the swarm. A download ends after `time_limit` seconds without a
    piece from it. `close` ends the downloads; the session and the cache
    must be closed by the caller afterwards, in this order.
    """

    def __init__(
        self, cache: Cache, session: Session, http: HttpClient, *, min_size: int, time_limit: float
    ) -> None:
        self._counters = Counters()
        service = SwarmService(http)
        self._seeding = Seeding(session, cache, service, self._counters)
        self._shared = SharedServices(
            cache,
            session,
            http,
            service,
            WebSeedOutages(),
            self._seeding,
            self._counters,
            min_size,
            time_limit,
        )
        self._cache = cache
        self._lock = threading.Lock()
        self._running: dict[Digest, Download] = {}
        self._failed: TTLCache[Digest, DownloadStatus] = TTLCache(_MAX_REMEMBERED, _FAILED_SECONDS)
        self._not_cached: TTLCache[Digest, str] = TTLCache(_MAX_REMEMBERED, _WITHOUT_CACHE_SECONDS)
        """Layers that could not be cached, and why."""
        self._bad_torrents: TTLCache[Digest, bool] = TTLCache(_MAX_REMEMBERED, _WITHOUT_TORRENT_SECONDS)
        self._cache_outage = OutageLog(log, "cache")
        self._closed = False
        cache.on_removed = self._seeding.forget
        self._seeding.start()

    def open(self, layer: PulledLayer, origin: Origin, end: int | None = None) -> Reader:
        """Return a reader of `layer`. Start its download unless it is running or the layer is cached.

        The caller must be authorized by the registry before, and intends to read up to `end`. Never waits for
        the network. A running download uses the newest `origin` from then on.
        """
        end = layer.size if end is None else end
        with self._lock:
            if self._closed:
                raise Interrupted
            try:
                if (cached := self._cache.open(layer.digest)) is not None:
                    self._seeding.renew(layer, origin)
                    return Reader(layer, origin, end, self._counters, cached=cached)
                if layer.digest not in self._running:
                    self._cache.check()
                self._cache_outage.succeeded()
            except CacheFailed as error:
                self._cache_outage.failed(error)
                self._counters.fell_back("disk_error")
                return Reader(layer, origin, end, self._counters)
            try:
                download = self._running.get(layer.digest) or self._begin(layer, origin)
            except CacheFailed as error:
                log.warning(
                    "layer not cached, passed through to its reader digest=%s reason=%s", layer.digest, error
                )
                self._counters.fell_back("cache_full")
                return Reader(layer, origin, end, self._counters)
            download.origin = origin
            if (state := download.readers.join()) is not None:
                return Reader(layer, origin, end, self._counters, download=download, state=state)
        # It has just ended.
        download.wait_for_end()
        return self.open(layer, origin, end)

    def status(self) -> list[DownloadStatus]:
        """Return the downloads in progress, failed ones of the last minutes, and the layers being seeded."""
        with self._lock:
            downloads = list(self._running.values())
            # `get`, as an entry may expire at any moment.
            failed = [status for digest in self._failed if (status := self._failed.get(digest)) is not None]
        shown = [*(download.status() for download in downloads), *failed]
        seeded = [
            DownloadStatus(digest, "", size, size, "seeding", peers, 0, {})
            for digest, (size, peers) in self._seeding.peers().items()
            if all(one.digest != digest for one in shown)
        ]
        return shown + seeded

    def totals(self) -> Totals:
        """Return the counters since the start."""
        totals = self._counters.totals()
        return replace(totals, uploaded=totals.uploaded + self._seeding.uploaded)

    def drop(self, digest: Digest) -> bool:
        """Stop seeding a layer and remove it from the cache. Return whether it was cached and not in use."""
        return self._cache.drop(digest)

    def close(self) -> None:
        """End all downloads, keeping their parts; readers get Interrupted."""
        with self._lock:
            self._closed = True
            downloads = list(self._running.values())
        for download in downloads:
            download.stop()
        self._seeding.close()

    def _begin(self, layer: PulledLayer, origin: Origin) -> Download:
        if (why := self._not_cached.get(layer.digest)) is not None:
            raise CacheFailed(str(self._cache.directory), why)
        # Its part, if another program changed the file.
        self._seeding.forget(layer.digest)
        path = self._cache.reserve(layer.digest, layer.size)
        use_torrent = layer.digest not in self._bad_torrents
        download = Download(layer, origin, path, self._shared, self._ended, use_torrent=use_torrent)
        try:
            download.start()
        except RuntimeError as error:
            self._cache.release(layer.digest, keep=True)
            raise CacheFailed(str(path.parent), f"a download cannot begin: {error}") from error
        self._running[layer.digest] = download
        self._failed.pop(layer.digest, None)
        return download

    def _ended(self, download: Download) -> None:
        digest = download.layer.digest
        with self._lock:
            if self._running.get(digest) is download:
                del self._running[digest]
            if (error := download.error) is not None:
                self._failed[digest] = download.status()
            if isinstance(error, CacheFailed):
                self._not_cached[digest] = error.why
            if download.bad_torrent:
                self._bad_torrents[digest] = True
