"""Request a blob, or a range of its bytes, and check that the answer is that range (RFC 9110, 14)."""

from __future__ import annotations

import re
from typing import Self

from core.errors import BadAnswer, ConnectionCut, RangeIgnored, RemoteError
from core.http.stream import HttpStream

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:(\d{1,18})|\*)\Z")


def range_header(offset: int, length: int | None) -> dict[str, str]:
    """Return the request header for `length` bytes from `offset` on (None: all), none for a whole blob."""
    if offset < 0 or (length is not None and length < 1):
        raise ValueError(f"no range of {length} bytes from {offset}")
    if offset == 0 and length is None:
        return {}
    return {"Range": f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))}


def content_range(value: str | None, where: str) -> tuple[int, int, int | None]:
    """Return first byte, last byte and total size (None if unknown) from the Content-Range of a 206."""
    found = _CONTENT_RANGE.match(value or "")
    if found is None:
        raise BadAnswer(where, "status 206 without a valid Content-Range")
    first, last = int(found[1]), int(found[2])
    size = None if found[3] is None else int(found[3])
    if last < first or (size is not None and last >= size):
        raise BadAnswer(where, f"impossible Content-Range: {found[0]}")
    return first, last, size


class BlobStream:
    """The bytes of a blob from `offset` on, or `length` of them (a BlobReader).

    `size` is that of the whole blob in bytes, None if the answer does not say. Raises RangeIgnored for a
    whole blob instead of the requested range, BadAnswer for another range; the stream is closed then. Reading
    raises TimedOut, ConnectionCut and BadAnswer.
    """

    def __init__(self, stream: HttpStream, offset: int, length: int | None) -> None:
        self._stream = stream
        self._offset = offset
        try:
            self.size = _checked_size(stream, offset, length)
        except RemoteError:
            stream.close()
            raise

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of `buffer`, and return the number of bytes; 0 at the end."""
        try:
            count = self._stream.readinto(buffer)
        except ConnectionCut as error:
            raise ConnectionCut(error.where, self._offset, error.why) from error
        self._offset += count
        return count

    def close(self) -> None:
        """Free the connection. May be done twice, and from another thread."""
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _checked_size(stream: HttpStream, offset: int, length: int | None) -> int | None:
    """Return the size of the whole blob, None if unknown. Raises RemoteError for another range."""
    where = str(stream.target)
    if stream.status == 206:
        first, last, size = content_range(stream.headers.get("Content-Range"), where)
        if first != offset or (length is not None and last >= offset + length):
            raise BadAnswer(where, f"requested bytes from {offset} on, got {first}-{last}")
        if stream.length not in (None, last - first + 1):
            raise BadAnswer(where, f"bytes {first}-{last} in a body of {stream.length}")
        return size
    if offset or length is not None:
        raise RangeIgnored(where)
    return stream.length
