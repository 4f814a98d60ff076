"""All downloads of this node, one per digest, and the readers that wait for their bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from core.digest import Digest
from node.origin import Layer, Origin

State = Literal["checking", "swarm", "http", "verified", "seeding", "failed"]


@dataclass(frozen=True, slots=True)
class DownloadStatus:
    """A download at one moment, for status and metrics.

    `done` and `size` are bytes, `origins` counts useful bytes by where they came from ("peers",
    "web_seed", "registry"), `error` is set in state "failed".
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
class Totals:
    """Counters since the start: bytes by origin ("peers", "web_seed", "registry", "cache") and `uploaded`
    to peers; fallbacks to the registry by reason."""

    origins: dict[str, int]
    uploaded: int
    fallbacks: dict[str, int]


class Reader:
    """One caller's view of a layer that is being downloaded. For one thread; close it when done.

    with downloads.open(layer, origin) as reader:
        while data := reader.read(offset, 65536, timeout=30): ...
    """

    size: int

    def read(self, offset: int, limit: int, timeout: float) -> bytes:
        """Return 1 to `limit` bytes from `offset` on, waiting until they are there; b"" only at the end.

        Any order of offsets is allowed. Raises RemoteError or LayerError if the layer cannot be had,
        TimedOut after `timeout` seconds without a byte.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Leave. The download goes on without this reader."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


class Downloads:
    """Starts, joins and ends downloads. Thread-safe."""

    def open(self, layer: Layer, origin: Origin) -> Reader:
        """Return a reader of `layer`, whose download is started unless it is already running or cached.

        The registry's verdict for this caller must be known before. Never waits for the network. A
        running download uses the newest `origin` from now on.
        """
        raise NotImplementedError

    def wait(self, digest: Digest, progress: Callable[[DownloadStatus], None]) -> None:
        """Wait until the layer is cached, calling `progress` about twice a second (for prefetch).

        Raises what ended the download.
        """
        raise NotImplementedError

    def status(self) -> list[DownloadStatus]:
        """Return the downloads in progress, failed ones of the last minutes, and the layers being seeded."""
        raise NotImplementedError

    def totals(self) -> Totals:
        """Return the counters since the start."""
        raise NotImplementedError

    def drop(self, digest: Digest) -> bool:
        """Stop seeding a layer and remove it from the cache. Returns whether it was there and not in use."""
        raise NotImplementedError

    def close(self) -> None:
        """End all downloads, keeping what they have; readers get Interrupted."""
        raise NotImplementedError
