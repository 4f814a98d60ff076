"""Reads a blob through cuts and time-outs, resuming at the byte where it failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from core.blobs.source import BlobReader, BlobSource
from core.errors import NO_ANSWER, BadAnswer, ConnectionCut, RangeIgnored, RemoteError
from core.layer import Layer

_SKIP_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a failed read is resumed. Pauses are in seconds, `progress` is in bytes.

    `tries` consecutive failures end it. The count restarts when at least `progress` bytes arrived between
    two failures, so a source that fails after every byte is abandoned too.
    """

    tries: int = 5
    first_pause: float = 0.5
    max_pause: float = 8.0
    progress: int = 64 * 1024

    def pause(self, failures: int) -> float:
        """Return the seconds to wait after that many failures (1 or more): they double."""
        return min(self.max_pause, self.first_pause * 2.0 ** min(failures - 1, 32))


class ResumingReader(BlobReader):
    """The bytes from `offset` to `end` of a layer, each exactly once.

    `end` is the size of the blob. Bytes beyond it are passed on, so that the caller notices that the blob is
    too long. If the source ignores ranges, it is read from the beginning again, and bytes that were returned
    before are skipped. With `exact` only the range up to `end` is requested, and RangeIgnored is raised.

    `first` is an open reader from `offset` on. Raises ConnectionCut after the last attempt; other
    errors of the source than ConnectionCut, TimedOut and Unavailable, and those of `sleep`, at once.
    """

    def __init__(
        self,
        source: BlobSource,
        layer: Layer,
        offset: int,
        end: int,
        *,
        exact: bool = False,
        first: BlobReader | None = None,
        retry: RetryPolicy | None = None,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._source = source
        self._layer = layer
        self._end = end
        self._exact = exact
        self._retry = retry or RetryPolicy()
        self._sleep = sleep
        self._failures = 0
        self._failed_at = offset
        self._reader = first
        # Guards the reader against a `close` from another thread while a new one is being opened.
        self._lock = threading.Lock()
        self._closed = False
        self.position = offset
        """The offset in the blob of the next byte."""

    def readinto(self, buffer: memoryview, /) -> int:
        """See BlobReader. It may take as long as the source's time-out and a pause."""
        if self._exact:
            buffer = buffer[: self._end - self.position]
            if not buffer:
                return 0
        while True:
            try:
                reader = self._reader
                count = (self._open() if reader is None else reader).readinto(buffer)
                if not count and self.position < self._end:
                    raise self._cut(f"it ended {self._end - self.position} bytes too early")
            except (*NO_ANSWER, BadAnswer) as error:
                if self._closed:
                    raise
                if self.position >= self._end:
                    return 0  # all bytes have arrived, only the end of the connection failed
                self._failed(error)
                continue
            self.position += count
            return count

    def close(self) -> None:
        """Close it, from any thread. A read in progress ends if the source's reader allows that."""
        with self._lock:
            self._closed = True
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def _failed(self, error: RemoteError) -> None:
        """Count a failure and wait; raise ConnectionCut if it was the last."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        if self.position - self._failed_at >= self._retry.progress:
            self._failures = 0
        self._failed_at = self.position
        self._failures += 1
        if self._failures >= self._retry.tries:
            raise self._cut(f"gave up after {self._failures} attempts, the last error: {error}") from error
        self._sleep(self._retry.pause(self._failures))

    def _open(self) -> BlobReader:
        """Open a reader at the position, and keep it for the next reads."""
        length = self._end - self.position if self._exact else None
        try:
            reader = self._source.open(self._layer, self.position, length)
        except RangeIgnored:
            if self._exact:
                raise
            reader = self._skip_to_position()
        with self._lock:
            if not self._closed:
                self._reader = reader
                return reader
        reader.close()
        raise self._cut("closed")

    def _skip_to_position(self) -> BlobReader:
        reader = self._source.open(self._layer, 0)
        try:
            scratch = memoryview(bytearray(min(_SKIP_BYTES, self.position)))
            left = self.position
            while left:
                count = reader.readinto(scratch[:left])
                if not count or self._closed:
                    raise self._cut("it was cut again before that byte")
                left -= count
        except BaseException:
            reader.close()
            raise
        return reader

    def _cut(self, why: str) -> ConnectionCut:
        return ConnectionCut(f"blob {self._layer.digest}", self.position, why)
