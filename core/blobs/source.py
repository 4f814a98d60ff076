"""What a place that layers are read from has to offer: the registry, S3, its storage tree, MDS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from core.layer import Layer


class BlobReader(Protocol):
    """A blob's bytes from one offset on, read once, in order, by one thread.

    Closing is allowed at any time, twice too, and frees the connection or the file.
    """

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of `buffer`, which is never empty, and give the number of bytes; 0 at the end.

        Fewer bytes than asked for are no end. Raises TimedOut, ConnectionCut, Unavailable.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...


class BlobSource(Protocol):
    """Where layers are read from. Every source passes the same conformance tests.

    Methods may be called from several threads at once. Each raises NotFound where the blob is not
    there, Refused where the credentials do not do, TimedOut and Unavailable where
    another try may do better.
    """

    @property
    def parallel(self) -> bool:
        """Whether several ranges of one blob may be read at once to go faster."""
        ...

    def size(self, layer: Layer) -> int:
        """The blob's size in bytes, as the source has it."""
        ...

    def open(self, layer: Layer, offset: int, length: int | None = None) -> BlobReader:
        """A reader of `length` bytes from `offset`, or of all from there on if `length` is None."""
        ...

    def check(self) -> str:
        """One line on whether the source answers, for the operator; raises what reading would raise."""
        ...


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a storage: its path from the storage's root, without a slash in front, and its bytes.

    `size` is None for what is no regular file, such as a symbolic link.
    """

    path: str
    size: int | None


class BlobStorage(BlobSource, Protocol):
    """A registry's storage. Every one passes the same conformance tests.

    A listing never holds more than a page, or a folder, of names in memory. It raises Refused,
    TimedOut or Unavailable where it cannot go on: ending early would pass off a part as all.
    """

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        """All files below `folder`, a path from the root, in the order of their paths.

        What lies in folders named in `skipping` is of no interest; it is left out where that saves work.
        """
        ...
