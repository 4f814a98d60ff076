"""A blob read through cuts and time-outs: each time, it goes on from the byte where it broke."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from core.blobs.source import BlobReader, BlobSource
from core.errors import NO_ANSWER, BadAnswer, ConnectionCut, RangeIgnored, RemoteError
from core.layer import Layer

_SKIP_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to go on with a source that breaks off. Pauses are seconds, `progress` bytes.

    `tries` failures one after the other are the end of it. A failure starts the count again if at least
    `progress` bytes came since the one before: a source that breaks off after every byte is hopeless too.
    """

    tries: int = 5
    first_pause: float = 0.5
    longest_pause: float = 8.0
    progress: int = 64 * 1024

    def pause(self, failures: int) -> float:
        """Seconds to wait after that many failures (1 or more): they double."""
        return min(self.longest_pause, self.first_pause * 2.0 ** min(failures - 1, 32))


class ResumingReader:
    """The bytes from `offset` to `end` of a layer, none twice and none left out (a BlobReader).

    `end` is where the blob ends: what the source gives beyond it is passed on, so that who counts the
    bytes finds out that the blob is too long. A source that ignores ranges is read from its beginning
    again, and what was given before is thrown away. With `exact` it is one range that ends at `end`,
    and a source that ignores ranges is left to the caller (RangeIgnored).

    `first` is a reader from `offset` that is open already. Raises ConnectionCut when the retry is at its
    end; what the source raises other than ConnectionCut, TimedOut and Unavailable, and what
    `sleep` raises, at once.
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
        self._patience = retry or RetryPolicy()
        self._sleep = sleep
        self._failures = 0
        self._failed_at = offset
        self._reader = first
        # Guards the reader against a `close` from another thread while a new one is being opened.
        self._lock = threading.Lock()
        self._closed = False
        self.position = offset
        """The offset in the blob of the next byte to be given."""

    def readinto(self, buffer: memoryview, /) -> int:
        """As BlobReader's. It may take as long as the source's time-out, or a pause."""
        if self._exact:
            buffer = buffer[: self._end - self.position]
            if not buffer:
                return 0
        while True:
            try:
                reader = self._reader
                count = (self._open() if reader is None else reader).readinto(buffer)
                if not count and self.position < self._end:
                    raise self._cut(f"it ended there, {self._end - self.position} bytes too early")
            except (*NO_ANSWER, BadAnswer) as error:
                if self._closed:
                    raise
                if self.position >= self._end:
                    return 0  # all is here, only the goodbye is missing
                self._failed(error)
                continue
            self.position += count
            return count

    def close(self) -> None:
        """End it, from any thread; a read in progress breaks off if the source's reader allows it."""
        with self._lock:
            self._closed = True
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

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

    def _failed(self, error: RemoteError) -> None:
        """Count a failure and wait, or raise if it was one too many."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
        if self.position - self._failed_at >= self._patience.progress:
            self._failures = 0
        self._failed_at = self.position
        self._failures += 1
        if self._failures >= self._patience.tries:
            raise self._cut(f"given up after {self._failures} tries, the last: {error}") from error
        self._sleep(self._patience.pause(self._failures))

    def _open(self) -> BlobReader:
        """A reader at the position, kept for the next reads."""
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
                    raise self._cut("it broke off again before that byte")
                left -= count
        except BaseException:
            reader.close()
            raise
        return reader

    def _cut(self, why: str) -> ConnectionCut:
        return ConnectionCut(f"blob {self._layer.digest}", self.position, why)
