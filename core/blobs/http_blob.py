"""A blob's bytes over HTTP, with what goes wrong told in the words of layer sources."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from core.errors import (
    LayerError,
    LayerMissing,
    NotInRegistry,
    RegistryError,
    RegistryRefused,
    RegistryTimeout,
    SourceCut,
    SourceRefused,
    SourceTimeout,
    SourceUnavailable,
)
from core.http.errors import HttpCut, HttpError, HttpTimeout
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
        except HttpError as error:
            raise from_http_error(error, self._offset) from error
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


def from_http_error(error: HttpError, offset: int = 0) -> LayerError:
    """The layer's error for an exchange that failed when all before `offset` had been read."""
    match error:
        case HttpTimeout():
            return SourceTimeout(error.where, error.seconds)
        case HttpCut():
            return SourceCut(error.where, offset, error.why)
        case _:
            return SourceUnavailable(error.where, str(error).removeprefix(f"{error.where} "))


def from_registry_error(error: RegistryError, digest: str, where: str) -> LayerError:
    """The layer's error for a registry, or what is asked like one, that did not give the blob at `where`."""
    match error:
        case NotInRegistry():
            return LayerMissing(digest, where)
        case RegistryRefused():
            return SourceRefused(where, str(error))
        case RegistryTimeout():
            return SourceTimeout(where, error.seconds)
        case _:
            return SourceUnavailable(where, str(error))
