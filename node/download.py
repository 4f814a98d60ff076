"""One layer's download, by whatever way its bytes come, and what its readers wait for."""

from __future__ import annotations

import contextvars
import hashlib
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from core.digest import Digest
from core.errors import CacheFailed, DigestMismatch, DockerTorrentsError, Interrupted, TimedOut
from core.http.client import HttpClient
from node.cache import Cache, CachedLayer
from node.counters import Counters
from node.fallback import Progress
from node.fetch import PieceFetcher
from node.http_download import HttpDownload, HttpFile
from node.metainfo import Metainfo, parse_metainfo
from node.origin import Layer, Origin
from node.seeding import Seeding
from node.session import Session, Torrent
from node.swarm_client import SwarmAddress, SwarmClient
from node.swarm_download import SwarmDownload

log = logging.getLogger(__name__)

State = Literal["checking", "swarm", "http", "verified", "seeding", "failed"]

SMALL = 1024 * 1024
"""Layers below this size never use the swarm, unless configured otherwise (mirror.min_size)."""
LARGE = 16 * 1024 * 1024
"""Layers from this size on are asked for again while they come by HTTP: they may be being brewed."""
_ASK_AGAIN = 5.0
_KEEP_SECONDS = 5.0
"""How often what came by HTTP is kept past a crash."""
_LONGEST_ASK_AGAIN = 60.0
_HASHED_AT_ONCE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class DownloadStatus:
    """A download at one moment, for status and metrics. `done` and `size` are bytes.

    `origins` has the bytes by where they came from; `error` is set if it failed.
    """

    digest: Digest
    scope: str
    size: int
    done: int
    state: State
    peers: int
    readers: int
    origins: dict[str, int]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class NodeParts:
    """What all downloads of a node share."""

    cache: Cache
    session: Session
    http: HttpClient
    seeding: Seeding
    counters: Counters
    min_size: int = SMALL


class _Bytes(Protocol):
    """Where readers' bytes come from at the moment."""

    def read(self, reader: Progress, offset: int, limit: int) -> bytes | None:
        """Return bytes at `offset`, None if they are not there yet."""


@dataclass(slots=True)
class _NoBytes:
    def read(self, reader: Progress, offset: int, limit: int) -> bytes | None:
        return None


@dataclass(slots=True)
class _FileBytes:
    file: HttpFile | CachedLayer

    def read(self, reader: Progress, offset: int, limit: int) -> bytes | None:
        return self.file.read(offset, limit)


class Download:
    """Brings one layer into the cache, whose room was reserved at `path`; then the layer is seeded.

    It runs in a thread of its own from `start` on, with readers or without, until it is verified, failed or
    stopped. `ended` is called then. `use_torrent` is False where the layer's torrent is known to be wrong.
    """

    def __init__(
        self,
        layer: Layer,
        origin: Origin,
        path: Path,
        parts: NodeParts,
        ended: Callable[[Download], None],
        *,
        use_torrent: bool = True,
    ) -> None:
        self.layer = layer
        self.origin = origin
        """The newest caller's: requests to the registry use it from now on."""
        self.state: State = "checking"
        self.error: DockerTorrentsError | None = None
        self.bad_torrent = False
        self._path = path
        self._parts = parts
        self._ended = ended
        self._counters = Counters(parts.counters)
        self._use_torrent = use_torrent
        self._changed = threading.Condition()
        self._readers: dict[int, Progress] = {}
        self._bytes: _Bytes = _NoBytes()
        self._swarm: SwarmDownload | None = None
        self._file: HttpFile | None = None
        self._cached: CachedLayer | None = None
        self._stopped = False
        # In the context of the request that begins it: its requests and log lines have that one's id.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._run,),
            name=f"layer {layer.digest.hex[:12]}",
            daemon=True,
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> Progress | None:
        """Add a reader; None if the download is over."""
        with self._changed:
            if self.over:
                return None
            reader = Progress(time.monotonic())
            self._readers[id(reader)] = reader
            return reader

    def leave(self, reader: Progress) -> None:
        """Take a reader out. May be called twice."""
        with self._changed:
            self._readers.pop(id(reader), None)
            self._close_cached()

    def read(self, reader: Progress, offset: int, limit: int, timeout: float) -> bytes:
        """Return 1 to `limit` bytes from `offset` on, waiting until they are there; b"" only at the end.

        Raises RemoteError or LayerError if they cannot be had, CacheFailed if they can but not be kept,
        TimedOut after `timeout` seconds without a byte.
        """
        if offset >= self.layer.size or limit <= 0:
            return b""
        until = time.monotonic() + timeout
        with self._changed:
            reader.offset, reader.waiting_since = offset, time.monotonic()
            try:
                while True:
                    if data := self._bytes.read(reader, offset, limit):
                        reader.received += len(data)
                        return data
                    self._raise_failure(reader)
                    if (left := until - time.monotonic()) <= 0:
                        raise TimedOut(f"layer {self.layer.digest}", timeout)
                    self._changed.wait(left)
            finally:
                reader.waiting_since = None

    def wait(self, seconds: float) -> bool:
        """Wait for the end, at most so long; whether it has come. Raises what the download failed with."""
        with self._changed:
            self._changed.wait_for(lambda: self.over, seconds)
            if self.error is not None:
                raise self.error
            return self.over

    @property
    def over(self) -> bool:
        """Whether nothing more will come: it is verified, failed or stopped."""
        return self.state in ("verified", "seeding", "failed")

    def wait_for_end(self) -> None:
        """Wait until a download that is over has let go of everything."""
        self._thread.join()

    def stop(self) -> None:
        """End it, keeping what there is. Readers get Interrupted."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            swarm = self._swarm
        if swarm is not None:
            swarm.stop()
        if self._thread.ident is not None:
            self._thread.join()

    def status(self) -> DownloadStatus:
        """Return what the download does now."""
        swarm = self._swarm
        with self._changed:
            if self.state in ("verified", "seeding"):
                done = self.layer.size
            elif swarm is not None and swarm.pieces.checked:
                done = swarm.pieces.done
            else:
                done = self._file.done if self._file is not None else 0
            error = str(self.error) if self.error is not None else None
            state, readers = self.state, len(self._readers)
        peers = swarm.peers if swarm is not None and state != "failed" else 0
        digest, scope, size = self.layer.digest, self.layer.scope, self.layer.size
        origins = self._counters.totals().origins
        return DownloadStatus(digest, scope, size, done, state, peers, readers, origins, error)

    # The download's own thread

    def _run(self) -> None:
        try:
            self._download()
        except DockerTorrentsError as error:
            self._fail(error)
        except OSError as error:
            self._fail(CacheFailed(str(self._path.parent), error.strerror or str(error)))
        except Exception:
            log.exception("download failed with an internal error digest=%s", self.layer.digest)
            self._fail(Interrupted())
        finally:
            if self._file is not None:
                self._file.close()
            self._ended(self)

    def _download(self) -> None:
        metainfo = self._metainfo() if self._may_swarm else None
        if metainfo is None and self.layer.size > 0:
            if self._may_swarm:
                self._counters.fell_back("no_torrent")
            metainfo = self._by_http()
        torrent = self._by_swarm(metainfo) if metainfo is not None else None
        self._verify()
        if torrent is not None:
            self._seed(torrent)

    @property
    def _may_swarm(self) -> bool:
        return self._use_torrent and self.layer.size >= max(1, self._parts.min_size)

    def _metainfo(self) -> Metainfo | None:
        data = self.origin.torrent()
        if data is None:
            return None
        try:
            return parse_metainfo(data, self.layer)
        except ValueError as error:
            log.warning(
                "torrent not used, the layer comes from the registry digest=%s reason=%s",
                self.layer.digest,
                error,
            )
            self._counters.fell_back("bad_torrent")
            self._use_torrent = False
            return None

    def _by_http(self) -> Metainfo | None:
        """Stream the layer from the registry. Returns its torrent, if one comes up before the end."""
        self._file = file = HttpFile(self._path, self.layer.size, self._parts.cache.part(self.layer.digest))
        stream = HttpDownload(
            self.layer, file, lambda: self.origin, self._wanted, self._changed, self._counters
        )
        self._enter("http", _FileBytes(file))
        found: list[Metainfo] = []
        ask_at, pause = time.monotonic() + _ASK_AGAIN, _ASK_AGAIN
        keep_at = time.monotonic() + _KEEP_SECONDS

        def stop() -> bool:
            nonlocal ask_at, pause, keep_at
            if self._stopped:
                return True
            if time.monotonic() >= keep_at:
                self._keep_part()
                keep_at = time.monotonic() + _KEEP_SECONDS
            if self.layer.size >= LARGE and self._may_swarm and time.monotonic() >= ask_at:
                pause = min(_LONGEST_ASK_AGAIN, pause * 1.5)
                ask_at = time.monotonic() + pause
                if (metainfo := self._metainfo()) is not None:
                    found.append(metainfo)
            return bool(found)

        complete = stream.run(stop)
        if self._stopped:
            raise Interrupted
        return None if complete else found[0]

    def _by_swarm(self, metainfo: Metainfo) -> Torrent:
        parts, layer = self._parts, self.layer
        address = SwarmAddress.of(metainfo.web_seeds)
        fetcher = PieceFetcher(parts.http, layer, metainfo, lambda: self.origin, self._counters)
        swarm = SwarmDownload(
            layer,
            metainfo,
            self._path.parent,
            parts.session,
            fetcher,
            SwarmClient(parts.http, address, layer.digest) if address is not None else None,
            lambda: list(self._readers.values()),
            self._changed,
            self._counters,
            lambda: self._enter("swarm", swarm.pieces),
        )
        parts.cache.note(layer.digest, metainfo.encode())
        parts.cache.forget_part(layer.digest)
        with self._changed:
            if self._stopped:
                raise Interrupted
            self._swarm = swarm
            self.state = "checking"
        return swarm.run()

    def _verify(self) -> None:
        """Compare the file's SHA-256 with the digest, and have the cache keep it. Raises DigestMismatch."""
        got = self._sha256()
        if got != self.layer.digest.hex and self._swarm is not None:
            # libtorrent calls a piece complete a little before the file has it.
            self._swarm.pieces.flush()
            got = self._sha256()
        if got != self.layer.digest.hex:
            self.bad_torrent = self._swarm is not None
            raise DigestMismatch(str(self.layer.digest), f"sha256:{got}")
        self._parts.cache.commit(self.layer.digest)
        self._cached = self._parts.cache.open(self.layer.digest)
        if self._cached is None:
            raise CacheFailed(str(self._path.parent), "another program changed the layer's file")
        self._enter("verified", _FileBytes(self._cached))
        with self._changed:
            self._close_cached()

    def _sha256(self) -> str:
        if self._swarm is not None:
            self._swarm.pieces.flush()
        found = hashlib.sha256()
        with self._path.open("rb") as stream:
            while data := stream.read(_HASHED_AT_ONCE):
                found.update(data)
                if self._stopped:
                    raise Interrupted
        return found.hexdigest()

    def _seed(self, torrent: Torrent) -> None:
        if self._swarm is None:
            return
        renewed = self._swarm.renewed()
        self._parts.cache.note(self.layer.digest, renewed.encode())
        self._parts.seeding.adopt(self.layer.digest, renewed, torrent)
        with self._changed:
            self.state = "seeding"

    def _keep_part(self) -> None:
        """Let the next download go on from what came by HTTP. Raises OSError, CacheFailed."""
        if self._file is not None and self._swarm is None:
            self._parts.cache.keep_part(self.layer.digest, self._file.sync())

    def _fail(self, error: DockerTorrentsError) -> None:
        if not isinstance(error, DigestMismatch | CacheFailed):
            with suppress(OSError, CacheFailed):
                self._keep_part()
        # The next download may begin as soon as this one is over.
        self._parts.cache.release(self.layer.digest, keep=not isinstance(error, DigestMismatch))
        with self._changed:
            self.state, self.error = "failed", error
            self._bytes = _NoBytes()
            self._changed.notify_all()
        if isinstance(error, CacheFailed):
            self._counters.fell_back("disk_error")
        if not isinstance(error, Interrupted):
            log.warning("download failed digest=%s reason=%s", self.layer.digest, error)

    def _enter(self, state: State, source: _Bytes) -> None:
        with self._changed:
            self.state, self._bytes = state, source
            self._changed.notify_all()

    def _wanted(self) -> list[int]:
        """The offsets that readers wait for, in the order of their coming."""
        return [reader.offset for reader in self._readers.values() if reader.waiting_since is not None]

    def _raise_failure(self, reader: Progress) -> None:
        if self._stopped:
            raise Interrupted
        if (error := self.error or reader.error) is not None:
            reader.error = None
            raise error

    def _close_cached(self) -> None:
        """Let the layer be evicted once no reader is left."""
        if self._cached is not None and not self._readers and self.over:
            self._cached.close()
            self._cached = None
            self._bytes = _NoBytes()
