"""A blob's bytes over HTTP, with what goes wrong told in the words of layer sources."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from core.errors import (
    ConnectionCut,
)
from core.registry.blob import BlobStream


class HttpBlobReader:
    """A blob's bytes from `offset` on (a BlobReader). `size` is the whole blob's, if the server says it."""

    def __init__(self, stream: BlobStream, offset: int) -> None:
        self.size = stream.size
        self._stream = stream
        self._offset = offset

    def readinto(self, buffer: memoryview, /) -> int:
        """As BlobReader's."""
        try:
            count = self._stream.readinto(buffer)
        except ConnectionCut as error:
            raise ConnectionCut(error.where, self._offset, error.why) from error
        self._offset += count
        return count

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.close()
