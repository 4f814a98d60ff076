"""One layer's download: from the registry or the swarm into the cache, verified there, then shared."""

from __future__ import annotations

import contextvars
import hashlib
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.errors import CacheFailed, DigestMismatch, DockerTorrentsError, Interrupted
from core.http.client import HttpClient
from node.cache import Cache
from node.counters import Counters
from node.fetch import PieceFetcher, WebSeedOutages
from node.metainfo import Metainfo, parse_metainfo
from node.origin import Origin, PulledLayer
from node.readers import ByteSource, Readers
from node.registry_download import RegistryDownload
from node.seeding import Seeding
from node.session import Session, Torrent
from node.status import DownloadStatus, State
from node.swarm_client import SwarmAddress, SwarmClient, SwarmService
from node.swarm_download import SwarmDownload

log = logging.getLogger(__name__)

_HASHED_AT_ONCE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SharedServices:
    """The objects that all downloads of a node share. `time_limit` is in seconds without a piece from the
    swarm.
    """

    cache: Cache
    session: Session
    http: HttpClient
    swarm_service: SwarmService
    web_seeds: WebSeedOutages
    seeding: Seeding
    counters: Counters
    min_size: int
    time_limit: float


class Download:
    """Downloads one layer into the cache, which reserved space at `path`; then the layer is seeded.

    It runs in its own thread from `start` on, with or without readers, until it is verified, failed or
    stopped. `ended` is called then. `use_torrent` is False if the layer's torrent is known to be wrong.
    """

    def __init__(
        self,
        layer: PulledLayer,
        origin: Origin,
        path: Path,
        shared: SharedServices,
        ended: Callable[[Download], None],
        *,
        use_torrent: bool = True,
    ) -> None:
        self.layer = layer
        self.origin = origin
        """That of the newest caller, for requests to the registry."""
        self.state: State = "checking"
        self.error: DockerTorrentsError | None = None
        self.bad_torrent = False
        self._path = path
        self._shared = shared
        self._ended = ended
        self._counters = Counters(shared.counters)
        self._use_torrent = use_torrent
        self._changed = threading.Condition()
        self.readers = Readers(layer, self._changed)
        self._swarm: SwarmDownload | None = None
        self._registry: RegistryDownload | None = None
        self._stopped = False
        # In the context of the request that starts it, whose id its requests and log lines have.
        self._thread = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._run,),
            name=f"layer {layer.digest.hex[:12]}",
            daemon=True,
        )

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait_for_end(self) -> None:
        """Wait until a download that has ended has released everything."""
        self._thread.join()

    def stop(self) -> None:
        """End it, keeping its part. Readers get Interrupted."""
        with self._changed:
            self._stopped = True
            self.readers.fail(Interrupted())
            swarm, registry = self._swarm, self._registry
        if registry is not None:
            registry.stop()
        if swarm is not None:
            swarm.stop()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def done(self) -> int:
        """The number of bytes present."""
        with self._changed:
            if self.state in ("verified", "seeding"):
                return self.layer.size
            if self._swarm is not None and self._swarm.pieces.checked:
                return self._swarm.pieces.done
            return self._registry.done if self._registry is not None else 0

    def status(self) -> DownloadStatus:
        """Return the current status."""
        swarm = self._swarm
        with self._changed:
            done = self.done
            error = str(self.error) if self.error is not None else None
            state, readers = self.state, len(self.readers)
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
            self._fail(self._disk_error(error))
        except Exception:
            log.exception("download failed with an internal error digest=%s", self.layer.digest)
            self._fail(Interrupted())
        finally:
            if self._registry is not None:
                self._registry.close()
            self._ended(self)

    def _download(self) -> None:
        metainfo = self._metainfo()
        if metainfo is None and self.layer.size > 0:
            if self._can_use_swarm:
                self._counters.fell_back("no_torrent")
            metainfo = self._download_from_registry()
        if metainfo is None:
            self._verify()
            return
        swarm, torrent = self._download_from_swarm(metainfo)
        try:
            self._verify()
            self._seed(swarm.renewed(), torrent)
        except BaseException:
            self._shared.session.remove(torrent)
            raise

    @property
    def _can_use_swarm(self) -> bool:
        return self._use_torrent and self.layer.size >= max(1, self._shared.min_size)

    def _metainfo(self) -> Metainfo | None:
        data = self.origin.torrent() if self._can_use_swarm else None
        if data is None:
            return None
        try:
            return parse_metainfo(data, self.layer.digest, self.layer.size)
        except ValueError as error:
            log.warning(
                "torrent not used, the layer comes from the registry digest=%s reason=%s",
                self.layer.digest,
                error,
            )
            self._counters.fell_back("bad_torrent")
            self._use_torrent = False
            return None

    def _download_from_registry(self) -> Metainfo | None:
        """Download from the registry. Return the layer's torrent, if one appears before the layer is
        complete.
        """
        registry = RegistryDownload(
            self.layer,
            self._path,
            self._shared.cache,
            lambda: self.origin,
            self._metainfo,
            self.readers.all,
            self._changed,
            self._counters,
        )
        with self._changed:
            self._registry = registry
            if self._stopped:
                raise Interrupted
        self._set_state("http", registry)
        metainfo = registry.run()
        if self._stopped:
            raise Interrupted
        return metainfo

    def _download_from_swarm(self, metainfo: Metainfo) -> tuple[SwarmDownload, Torrent]:
        shared, layer = self._shared, self.layer
        address = SwarmAddress.of(metainfo.web_seeds)
        fetcher = PieceFetcher(
            shared.http, layer, metainfo, lambda: self.origin, self._counters, shared.web_seeds
        )
        swarm = SwarmDownload(
            layer,
            metainfo,
            self._path.parent,
            shared.session,
            fetcher,
            SwarmClient(shared.swarm_service, address, layer.digest) if address is not None else None,
            self.readers.all,
            self._changed,
            self._counters,
            lambda: self._set_state("swarm", swarm.pieces),
            shared.time_limit,
        )
        shared.cache.save_metadata(layer.digest, metainfo.encode())
        shared.cache.delete_blocks(layer.digest)
        with self._changed:
            if self._stopped:
                raise Interrupted
            self._swarm = swarm
        self._set_state("checking", swarm.pieces)
        return swarm, swarm.run()

    def _verify(self) -> None:
        """Compare the file's SHA-256 with the digest, and commit it to the cache. Raises DigestMismatch."""
        got = self._sha256()
        if got != self.layer.digest.hex and self._swarm is not None:
            # libtorrent reports a piece as complete slightly before it is in the file.
            got = self._sha256()
        if got != self.layer.digest.hex:
            self.bad_torrent = self._swarm is not None
            raise DigestMismatch(str(self.layer.digest), f"sha256:{got}")
        cached = self._shared.cache.commit(self.layer.digest)
        with self._changed:
            self.state = "verified"
            self.readers.finish(cached)

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

    def _seed(self, metainfo: Metainfo, torrent: Torrent) -> None:
        try:
            self._shared.cache.save_metadata(self.layer.digest, metainfo.encode())
        except CacheFailed as error:
            # Shared until the mirror is restarted, with the capability stored before.
            log.warning("capability not stored reason=%s", error)
        self._shared.seeding.adopt(self.layer.digest, metainfo, torrent)
        with self._changed:
            self.state = "seeding"

    def _fail(self, error: DockerTorrentsError) -> None:
        kept = not isinstance(error, DigestMismatch | CacheFailed)
        if kept and self._registry is not None and self._swarm is None:
            with suppress(OSError, CacheFailed):
                self._registry.save_blocks()
        # The next download may begin as soon as this one has ended.
        self._shared.cache.release(self.layer.digest, keep=not isinstance(error, DigestMismatch))
        if isinstance(error, CacheFailed):
            self._counters.fell_back("disk_error")
        with self._changed:
            self.state, self.error = "failed", error
            self.readers.serve(None)
            self.readers.fail(error)
        if not isinstance(error, Interrupted):
            log.warning("download failed digest=%s reason=%s", self.layer.digest, error)

    def _set_state(self, state: State, source: ByteSource) -> None:
        with self._changed:
            self.state = state
            self.readers.serve(source)

    def _disk_error(self, error: OSError) -> CacheFailed:
        return CacheFailed(str(self._path.parent), error.strerror or str(error))
