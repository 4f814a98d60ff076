"""An answer whose body is still on the wire."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Self

from core.errors import BadAnswer, ConnectionCut, RemoteError
from core.http.url import Target
from core.http.wire import WIRE_ERRORS, Exchange, Patience, as_http_error

LEAST_BYTES = 16 * 1024
"""What has to come, at least, within each read time-out that is spent waiting."""

MOST_BYTES = 128 * 1024
"""What one read gives at most: more only costs memory that is copied out of the cache."""

DISCARDED_BYTES = 16 * 1024
"""How long a body may be to be read for nothing, as a new connection costs more."""


class HttpStream:
    """Status, headers, and a body to be read once, in order, by one thread.

    The bytes come as they were sent: nothing is unpacked. `received` counts them. `target` is where
    the answer came from in the end. Closing frees the connection; it may be done twice, and by another
    thread, whose reader then gets ConnectionCut.
    """

    def __init__(self, exchange: Exchange, target: Target, patience: Patience, seconds: float) -> None:
        self.status = exchange.status
        self.headers = exchange.headers
        self.target = target
        self.received = 0
        self._exchange = exchange
        self._patience = patience
        self._seconds = seconds
        self._left = float(patience)
        self._recent = 0
        self._closed = False
        self._lock = threading.RLock()
        """Held while reading: what is below is not made for two threads."""

    @property
    def length(self) -> int | None:
        """The body's length in bytes as announced, also in an answer to HEAD; None where it is not."""
        return self.headers.number("Content-Length")

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the front of `buffer` with what is there, at least one byte; 0 at the end.

        Raises TimedOut if nothing comes within the read time-out, or less than LEAST_BYTES within
        a read time-out's worth of waiting; ConnectionCut before the announced end; BadAnswer.
        """
        begun = time.monotonic()
        self._patience.until = begun + self._left
        data = self._read(min(len(buffer), MOST_BYTES), self._patience)
        count = len(data)
        buffer[:count] = data
        self._recent += count
        if self._recent >= LEAST_BYTES:
            self._recent, self._left = 0, float(self._patience)
        else:
            self._left -= time.monotonic() - begun
        return count

    def read(self, limit: int) -> bytes:
        """The whole body, within the time that the request was given.

        Raises BadAnswer if it has more than `limit` bytes, and what `readinto` raises.
        """
        if (self.length or 0) > limit and not self._exchange.at_end:
            self.close()
            raise BadAnswer(str(self.target), f"a body of {self.length} bytes, at most {limit} are taken")
        parts = []
        while data := self._read(min(MOST_BYTES, limit + 1 - self.received), self._seconds):
            parts.append(data)
            if self.received > limit:
                self.close()
                raise BadAnswer(str(self.target), f"a body of more than {limit} bytes")
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def discard(self) -> None:
        """Free the connection for the next request, where a short body is all that is in the way."""
        if self.length is not None and self.length <= DISCARDED_BYTES:
            with suppress(RemoteError):
                self.read(DISCARDED_BYTES)
        self.close()

    def close(self) -> None:
        """Free the connection: for the next request if nothing is left on it, else by cutting it."""
        self._closed = True
        if not self._lock.acquire(blocking=False):
            # Wakes the reader, if it has not just come to the end by itself.
            with suppress(OSError, ValueError):
                self._exchange.interrupt()
            self._lock.acquire()
        try:
            with suppress(*WIRE_ERRORS):
                self._exchange.end()
        finally:
            self._lock.release()

    def _read(self, most: int, seconds: float) -> bytes:
        with self._lock:
            try:
                data = b"" if self._closed else self._exchange.read(most)
            except WIRE_ERRORS as error:
                self.close()
                raise as_http_error(error, str(self.target), seconds, self.received) from error
            if not data and self._closed:
                # Where no length was announced this looks like the end of the body.
                raise ConnectionCut(str(self.target), self.received, "closed by ourselves")
        self.received += len(data)
        return data

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
