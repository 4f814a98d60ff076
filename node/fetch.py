"""Read parts of a layer by HTTP: from the torrent's web seeds, else from the registry."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

from core.blobs.source import BlobReader
from core.errors import (
    NO_ANSWER,
    BadAnswer,
    ConnectionCut,
    NotFound,
    Refused,
    RemoteError,
    TimedOut,
    Unavailable,
)
from core.http.client import HttpClient
from core.http.ranged import BlobStream, range_header
from core.logs import OutageLog
from node.counters import Counters
from node.metainfo import Metainfo
from node.origin import Origin, PulledLayer
from node.swarm_client import SwarmAddress

log = logging.getLogger(__name__)

_SEED_PAUSE = 2.0
_MAX_SEED_PAUSE = 60.0
_SMOOTHING = 0.3
SLOW_SECONDS = 10.0
MIN_BYTES = 64 * 1024
"""The bytes that a web seed must send in SLOW_SECONDS, as the swarm waits for its chunks."""


class WebSeed:
    """The URL of a web seed, and its pause after a failure. Not thread-safe."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._until = 0.0
        self._failures = 0

    def usable(self, now: float) -> bool:
        """Return whether it may be requested at `now`, monotonic seconds."""
        return now >= self._until

    def failed(self, error: Exception, now: float) -> None:
        """Pause its use after a failure, permanently if it sent wrong bytes."""
        if isinstance(error, WrongBytes):
            self._until = float("inf")
            return
        pause = min(_MAX_SEED_PAUSE, _SEED_PAUSE * 2**self._failures)
        self._failures += 1
        if isinstance(error, Unavailable) and error.retry_after:
            pause = max(pause, error.retry_after)
        self._until = now + pause

    def served(self) -> None:
        """Trust it again after a success."""
        self._failures = 0


class WrongBytes(BadAnswer):
    """A piece whose hash differs from that in the torrent."""

    def __init__(self, where: str, piece: int) -> None:
        super().__init__(where, f"piece {piece} does not have its hash")


class WebSeedOutages:
    """Logs when the servers of web seeds do not answer, for all layers. Thread-safe."""

    def __init__(self) -> None:
        self._by_server: dict[str, OutageLog] = {}

    def of(self, url: str) -> OutageLog:
        """Return the log of the server of this URL, which is not shown: it contains a capability."""
        server = urlsplit(url).netloc.rpartition("@")[2]
        return self._by_server.setdefault(server, OutageLog(log, f"web seed of {server}"))


class _MinimumRateReader(BlobReader):
    """A web seed's bytes. It gives up if they are too slow, as the registry may be faster."""

    def __init__(self, body: BlobReader) -> None:
        self._body = body
        self._since = time.monotonic()
        self._recent = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """See BlobReader. Raises TimedOut if fewer than MIN_BYTES arrived in SLOW_SECONDS."""
        count = self._body.readinto(buffer)
        self._recent += count
        if (now := time.monotonic()) - self._since >= SLOW_SECONDS:
            if self._recent < MIN_BYTES:
                raise TimedOut("web seed", SLOW_SECONDS)
            self._since, self._recent = now, 0
        return count

    def close(self) -> None:
        """See BlobReader."""
        self._body.close()


class PieceFetcher:
    """Fetches pieces of one layer, from several threads.

    `origin` returns the registry with the credentials of the newest reader.
    """

    def __init__(
        self,
        http: HttpClient,
        layer: PulledLayer,
        metainfo: Metainfo,
        origin: Callable[[], Origin],
        counters: Counters,
        outages: WebSeedOutages,
    ) -> None:
        self.rate: float | None = None
        """The recent rate of one request, in bytes per second."""
        self._http = http
        self._layer = layer
        self._metainfo = metainfo
        self._origin = origin
        self._counters = counters
        self._outages = outages
        self._seeds = [WebSeed(url) for url in metainfo.web_seeds]
        self._open: dict[int, BlobReader] = {}
        self._closed = False
        self._lock = threading.Lock()

    def set_web_seed(self, url: str) -> None:
        """Replace the URL of docker-torrents' web seed by one with a renewed capability."""
        own = next((seed for seed in self._seeds if SwarmAddress.of((seed.url,)) is not None), None)
        if own is not None:
            own.url = url

    def fetch(
        self,
        pieces: range,
        is_missing: Callable[[int], bool],
        deliver: Callable[[int, bytes, bool], None],
        *,
        registry_only: bool = False,
    ) -> None:
        """Fetch the missing ones of `pieces`, and pass each to `deliver`: (piece, bytes, from the registry).

        Try the web seeds, then the registry. Raises RemoteError if both fail.
        """
        if not registry_only:
            for seed in self._seeds:
                if not seed.usable(time.monotonic()):
                    continue
                try:
                    requested = self._read_pieces(
                        partial(self._open_seed, seed), "web seed", pieces, is_missing, deliver
                    )
                except RemoteError as error:
                    if self._closed:
                        raise
                    seed.failed(error, time.monotonic())
                    self._counters.fell_back("web_seed")
                    self._log_failure(seed, error)
                else:
                    if requested:
                        seed.served()
                        self._outages.of(seed.url).succeeded()
                    return
        self._read_pieces(self._origin().open, "registry", pieces, is_missing, deliver)

    def close(self) -> None:
        """Abort all requests; their threads get RemoteError."""
        with self._lock:
            self._closed = True
            bodies = list(self._open.values())
        for body in bodies:
            body.close()

    def _read_pieces(
        self,
        open_at: Callable[[int, int], BlobReader],
        name: str,
        pieces: range,
        is_missing: Callable[[int], bool],
        deliver: Callable[[int, bytes, bool], None],
    ) -> bool:
        """Return False, without a request, if none of `pieces` is missing. Raises RemoteError."""
        wanted = [piece for piece in pieces if is_missing(piece)]
        if not wanted:
            return False
        start, end = self._metainfo.span(wanted[0])[0], self._metainfo.span(wanted[-1])[1]
        begun = time.monotonic()
        with self._opened(open_at(start, end - start)) as body:
            for piece in range(wanted[0], wanted[-1] + 1):
                first, last = self._metainfo.span(piece)
                data = read_exactly(body, last - first, name, first)
                if not self._metainfo.matches(piece, data):
                    raise WrongBytes(name, piece)
                if is_missing(piece):
                    deliver(piece, data, name == "registry")
        rate = (end - start) / max(1e-3, time.monotonic() - begun)
        self.rate = rate if self.rate is None else self.rate + _SMOOTHING * (rate - self.rate)
        return True

    def _log_failure(self, seed: WebSeed, error: RemoteError) -> None:
        reason = type(error).__name__
        if isinstance(error, NO_ANSWER):
            self._outages.of(seed.url).failed(reason)
        else:
            log.warning("web seed failed digest=%s reason=%s", self._layer.digest, reason)

    def _open_seed(self, seed: WebSeed, offset: int, length: int) -> BlobReader:
        return _MinimumRateReader(open_range(self._http, seed.url, offset, length))

    @contextmanager
    def _opened(self, body: BlobReader) -> Iterator[BlobReader]:
        with self._lock:
            self._open[id(body)] = body
            closed = self._closed
        try:
            if closed:
                raise ConnectionCut("download", 0, "it ended")
            yield body
        finally:
            with self._lock:
                self._open.pop(id(body), None)
            body.close()


def open_range(http: HttpClient, url: str, offset: int, length: int) -> BlobStream:
    """Open `length` bytes of a web seed from `offset` on. Raises RemoteError; the capability is in none."""
    where = "web seed"
    stream = http.open("GET", url, headers=range_header(offset, length))
    if stream.status in (200, 206):
        return BlobStream(stream, offset, length)
    stream.close()
    match stream.status:
        case 401 | 403:
            raise Refused(where, stream.status, "the capability is not valid")
        case 404:
            raise NotFound(where)
        case 429 | 500 | 502 | 503 | 504:
            raise Unavailable(where, f"status {stream.status}", stream.headers.number("Retry-After"))
    raise BadAnswer(where, f"status {stream.status}")


def read_exactly(body: BlobReader, count: int, where: str, offset: int) -> bytes:
    """Read `count` bytes. Raises RemoteError, ConnectionCut if the body ends before."""
    data = bytearray(count)
    view = memoryview(data)
    filled = 0
    while filled < count:
        got = body.readinto(view[filled:])
        if not got:
            raise ConnectionCut(where, offset + filled, "the body ended")
        filled += got
    return bytes(data)
