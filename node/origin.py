"""The registry's interface for a download: a layer's torrent, and its bytes for one caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from core.blobs.source import BlobReader
from core.digest import Digest


@dataclass(frozen=True, slots=True)
class PulledLayer:
    """A layer to download from the repository `scope`. `size` is in bytes."""

    digest: Digest
    scope: str
    size: int


class Origin(Protocol):
    """One layer at the registry, requested with one caller's credentials. Used from several threads."""

    def torrent(self) -> bytes | None:
        """Return the layer's .torrent, None if it has none or the service does not answer in time."""

    def open(self, offset: int, length: int) -> BlobReader:
        """Open `length` bytes from `offset` on. Raises RemoteError, RangeIgnored included."""
