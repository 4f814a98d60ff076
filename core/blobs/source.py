"""Protocols of the backends that hold blobs: all can be read from, storages can be listed too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, Self

from core.layer import Layer


class BlobReader(Protocol):
    """A blob's bytes from an offset on, read once, in order, by one thread.

    It may be closed at any time, more than once, and from another thread; that frees the connection or file.
    """

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of `buffer`, which is never empty, and return the number of bytes; 0 at the end.

        It may be fewer than fit. Raises TimedOut, ConnectionCut, Unavailable.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BlobSource(Protocol):
    """A backend that layers are read from. All of them pass the same conformance tests.

    Methods may be called from several threads. Each raises NotFound for a missing blob, Refused for a lack of
    permission, and TimedOut or Unavailable if a later try may succeed.
    """

    @property
    def parallel(self) -> bool:
        """Whether several ranges of one blob may be read at once to go faster."""
        ...

    def size(self, layer: Layer) -> int:
        """Return the blob's size in bytes."""
        ...

    def open(self, layer: Layer, offset: int, length: int | None = None) -> BlobReader:
        """Return a reader of `length` bytes from `offset` on; of all of them if `length` is None."""
        ...

    def check(self) -> str:
        """Return one line for the operator if the backend works; raise what reading would raise if not."""
        ...


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a storage: its path below the storage's root, without a leading slash, and its size in bytes.

    `size` is None for anything but a regular file, for example a symbolic link.
    """

    path: str
    size: int | None


class BlobStorage(BlobSource, Protocol):
    """A registry's storage: a backend that can list its files. All of them pass the same conformance tests.

    A listing holds at most one page, or one folder on each level, in memory. It raises Refused, TimedOut,
    ConnectionCut or Unavailable if it is incomplete.
    """

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        """Yield all files below `folder`, a path from the root, in the order of their paths.

        Folders with a name in `skipping` are left out where that saves work.
        """
        ...
