"""The body of a blob, or of a range of it, from a registry or the storage that it redirects to."""

from __future__ import annotations

import re
from typing import Self

from core.errors import BadAnswer, ConnectionCut, RangeIgnored
from core.http.headers import Headers
from core.http.stream import HttpStream

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(?:(\d{1,18})|\*)\Z")


def range_header(offset: int, length: int | None) -> dict[str, str]:
    """Return the request header for `length` bytes from `offset` on (None: all), none for a whole blob."""
    if offset < 0 or (length is not None and length < 1):
        raise ValueError(f"no range of {length} bytes from {offset}")
    if offset == 0 and length is None:
        return {}
    return {"Range": f"bytes={offset}-" + ("" if length is None else str(offset + length - 1))}


def content_range(headers: Headers, where: str) -> tuple[int, int, int | None]:
    """Return first byte, last byte and total size (None if unknown) of a 206 (RFC 9110, 14.4)."""
    found = _CONTENT_RANGE.match(headers.get("Content-Range") or "")
    if found is None:
        raise BadAnswer(where, "status 206 without a valid Content-Range")
    first, last = int(found[1]), int(found[2])
    size = None if found[3] is None else int(found[3])
    if last < first or (size is not None and last >= size):
        raise BadAnswer(where, f"impossible Content-Range: {found[0]}")
    return first, last, size


class BlobStream:
    """The bytes of a blob from `offset` on, or `length` of them (a BlobReader).

    `size` is that of the whole blob in bytes, None if the answer does not say. Reading raises TimedOut,
    ConnectionCut and BadAnswer.
    """

    def __init__(self, stream: HttpStream, offset: int, length: int | None) -> None:
        self._stream = stream
        self._offset = offset
        where = str(stream.target)
        if stream.status == 206:
            first, last, self.size = content_range(stream.headers, where)
            if first != offset or (length is not None and last >= offset + length):
                raise BadAnswer(where, f"requested bytes from {offset} on, got {first}-{last}")
            if stream.length not in (None, last - first + 1):
                raise BadAnswer(where, f"bytes {first}-{last} in a body of {stream.length}")
            return
        if offset or length is not None:
            raise RangeIgnored(where)
        self.size = stream.length

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
