"""An answer with a body that is not read yet."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Self

from requests import Response

from core.errors import BadAnswer, ConnectionCut, RemoteError, TimedOut
from core.http.failures import FAILURES, as_body_error
from core.http.headers import Headers
from core.http.url import Target

MIN_BYTES = 16 * 1024
"""The minimum that has to arrive within each read time-out of waiting."""

MAX_READ_BYTES = 128 * 1024
"""The maximum of one read: larger ones would not fit into the processor's cache."""

MAX_DISCARDED_BYTES = 16 * 1024
"""The longest body that is read only to reuse the connection, as a new one costs more."""


class HttpStream:
    """Status, headers, and a body to be read once, in order, by one thread.

    The bytes are passed on as sent, without decompression. `received` counts them. `target` is the origin of
    the answer, after redirects. `close` frees the connection; it may be called twice, and by
    another thread, whose reader then gets ConnectionCut.
    """

    def __init__(
        self, response: Response, target: Target, read_timeout: float, until: float, seconds: float
    ) -> None:
        self.status = response.status_code
        self.headers = Headers(tuple(response.raw.headers.iteritems()))
        self.target = target
        self.received = 0
        self._response = response
        self._read_timeout = read_timeout
        self._until = until
        self._seconds = seconds
        self._left = read_timeout
        self._recent = 0
        self._closed = False
        self._ended = False
        self._lock = threading.RLock()
        """Held while reading: the response is not thread-safe."""
        if self.headers.all("Content-Length") and self.length is None:
            self.close()
            raise BadAnswer(str(target), "its Content-Length is not a number")

    @property
    def length(self) -> int | None:
        """The announced length of the body in bytes, also in an answer to HEAD; None without one."""
        return self.headers.number("Content-Length")

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of `buffer` with arrived bytes, at least one; return 0 at the end.

        Raises TimedOut if nothing arrives within the read time-out, or less than MIN_BYTES within
        a read time-out's worth of waiting; ConnectionCut before the announced end.
        """
        begun = time.monotonic()
        data = self._read(min(len(buffer), MAX_READ_BYTES), self._read_timeout)
        count = len(data)
        buffer[:count] = data
        self._recent += count
        if self._recent >= MIN_BYTES:
            self._recent, self._left = 0, self._read_timeout
        else:
            self._left -= time.monotonic() - begun
            if count and self._left <= 0:
                self.close()
                raise TimedOut(str(self.target), self._read_timeout)
        return count

    def read(self, limit: int) -> bytes:
        """Return the whole body. The deadline of the request is checked after each part of it.

        Raises BadAnswer if it has more than `limit` bytes, and what `readinto` raises.
        """
        if (self.length or 0) > limit and self._response.raw.length_remaining != 0:
            self.close()
            raise BadAnswer(str(self.target), f"a body of {self.length} bytes, more than {limit}")
        parts = []
        while data := self._read(min(MAX_READ_BYTES, limit + 1 - self.received), self._seconds):
            parts.append(data)
            if self.received > limit:
                self.close()
                raise BadAnswer(str(self.target), f"a body of more than {limit} bytes")
            if time.monotonic() > self._until:
                self.close()
                raise TimedOut(str(self.target), self._seconds)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def discard(self) -> None:
        """Free the connection for the next request, if the body is short enough to be read for that."""
        if self.length is not None and self.length <= MAX_DISCARDED_BYTES:
            with suppress(RemoteError):
                self.read(MAX_DISCARDED_BYTES)
        self.close()

    def close(self) -> None:
        """Free the connection: for the next request if the body was read, else by closing it."""
        self._closed = True
        if not self._lock.acquire(blocking=False):
            # Wakes the reader, unless it has just reached the end.
            with suppress(OSError, ValueError, RuntimeError):
                self._response.raw.shutdown()
            self._lock.acquire()
        try:
            if not self._ended:
                self._ended = True
                # An empty read: the only way in which an empty body frees its connection.
                with suppress(*FAILURES):
                    if self._response.raw.length_remaining == 0:
                        self._response.raw.read1(1, decode_content=False)
                with suppress(*FAILURES):
                    self._response.close()
        finally:
            self._lock.release()

    def _read(self, limit: int, seconds: float) -> bytes:
        with self._lock:
            try:
                data = b"" if self._closed else self._response.raw.read1(limit, decode_content=False)
            except FAILURES as error:
                closed = self._closed
                self.close()
                if closed:
                    raise ConnectionCut(str(self.target), self.received, "closed") from error
                raise as_body_error(error, str(self.target), seconds, self.received) from error
            if not data and self._closed:
                # Without an announced length this looks like the end of the body.
                raise ConnectionCut(str(self.target), self.received, "closed")
        self.received += len(data)
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
