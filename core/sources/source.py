"""What a place that layers are read from has to offer: the registry, S3, its storage tree, MDS."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from core.layer import LayerRef


class BlobReader(Protocol):
    """A blob's bytes from one offset on, read once, in order, by one thread.

    Closing is allowed at any time, twice too, and frees the connection or the file.
    """

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of `buffer`, which is never empty, and give the number of bytes; 0 at the end.

        Fewer bytes than asked for are no end. Raises SourceTimeout, SourceCut, SourceUnavailable.
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


class LayerSource(Protocol):
    """Where layers are read from. Every source passes the same conformance tests.

    Methods may be called from several threads at once. Each raises LayerMissing where the blob is not
    there, SourceRefused where the credentials do not do, SourceTimeout and SourceUnavailable where
    another try may do better.
    """

    @property
    def parallel(self) -> bool:
        """Whether several ranges of one blob may be read at once to go faster."""
        ...

    def size(self, layer: LayerRef) -> int:
        """The blob's size in bytes, as the source has it."""
        ...

    def open(self, layer: LayerRef, offset: int, length: int | None = None) -> BlobReader:
        """A reader of `length` bytes from `offset`, or of all from there on if `length` is None."""
        ...

    def check(self) -> str:
        """One line on whether the source answers, for the operator; raises what reading would raise."""
        ...
