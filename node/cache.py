"""A bounded cache of verified layers on disk, owned by one process. Knows nothing of HTTP or torrents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from core.digest import Digest


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A verified layer. `used` is Unix time in seconds."""

    digest: Digest
    size: int
    used: float
    pinned: bool


class CachedLayer:
    """A verified layer's open file. It is not evicted while open."""

    size: int

    def read(self, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes at `offset`, b"" at the end."""
        raise NotImplementedError

    def fileno(self) -> int:
        """Return the file's descriptor, for os.sendfile or os.pread."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file. The layer may be evicted from now on."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


class Cache:
    """Layers under `directory`, at most `max_bytes` of them, leaving `keep_free` bytes of the disk free.

    Raises CacheFailed if the directory cannot be used or another process owns it. Thread-safe.
    """

    def __init__(self, directory: Path, max_bytes: int, keep_free: int) -> None:
        raise NotImplementedError

    def open(self, digest: Digest) -> CachedLayer | None:
        """Open a verified layer and count it as used; None if it is not cached."""
        raise NotImplementedError

    def entries(self) -> list[CacheEntry]:
        """Return the verified layers, the least recently used first."""
        raise NotImplementedError

    def pin(self, digest: Digest) -> bool:
        """Keep a layer from eviction, also one still to be downloaded. Survives restarts."""
        raise NotImplementedError

    def unpin(self, digest: Digest) -> bool:
        """Allow a layer's eviction again."""
        raise NotImplementedError

    def close(self) -> None:
        """Give up the directory."""
        raise NotImplementedError
