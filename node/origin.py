"""The registry's interface for a download: a layer's torrent, and its bytes for one caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from core.digest import Digest


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer to download. `scope` is the repository it is read from, `size` its length in bytes."""

    digest: Digest
    scope: str
    size: int


class Body(Protocol):
    """The bytes of an answer, read once and in order by one thread. `close` may come from another thread."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the beginning of `buffer` and return the number of bytes, 0 at the end. Raises RemoteError."""

    def close(self) -> None:
        """Release the connection."""


class Origin(Protocol):
    """One layer at the registry, requested with one caller's credentials. Used from several threads."""

    def torrent(self) -> bytes | None:
        """Return the layer's .torrent, None if it has none or the service does not answer in time."""

    def open(self, offset: int, length: int) -> Body:
        """Open `length` bytes from `offset` on. Raises RemoteError, RangeIgnored included."""
