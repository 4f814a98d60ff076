"""Reads one layer as fast as its source allows: over one connection, or several if that is faster."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from core.blobs.ranges import ParallelReader
from core.blobs.resume import ResumingReader, RetryPolicy
from core.blobs.source import BlobReader, BlobSource
from core.errors import ConnectionCut, Interrupted, RangeIgnored
from core.layer import Layer

WINDOW_BYTES = 16 * 1024 * 1024
"""The maximum read-ahead of a layer, over all connections: 64 MiB for four layers at a time."""

RANGE_BYTES = 4 * 1024 * 1024
"""The longest range requested: long enough that the time to its first byte hardly counts."""

_FAST_BYTES_PER_SECOND = 128 * 1024 * 1024
_INTERVAL_SECONDS = 0.1
_MIN_SPEEDUP = 1.25
_TICK = 0.1


def open_layer(
    source: BlobSource,
    layer: Layer,
    size: int,
    connections: int,
    *,
    window: int = WINDOW_BYTES,
    retry: RetryPolicy | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> BlobReader:
    """Return a reader of the whole layer, of `size` bytes, that survives cuts and is as fast as possible.

    It starts with one connection, and raises at once what `source.open` raises. If the source allows parallel
    reads and that connection is the bottleneck, it continues over `connections` of them, `window` bytes
    ahead, as long as that helps. A layer shorter than two ranges is read over one.

    Reading raises ConnectionCut if resuming did not help, NotFound or Refused if a later request fails
    that way, and Interrupted if `interrupted` returns True during a pause.
    """
    first = source.open(layer, 0)

    def sleep(seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if interrupted():
                raise Interrupted
            time.sleep(min(_TICK, left))

    reader = ResumingReader(source, layer, 0, size, first=first, retry=retry, sleep=sleep)
    range_bytes = max(1, min(RANGE_BYTES, window // connections))
    if connections < 2 or not source.parallel or size < 2 * range_bytes:
        return reader

    def in_parallel(offset: int) -> ParallelReader:
        return ParallelReader(
            source,
            layer,
            offset,
            size,
            connections=connections,
            range_bytes=range_bytes,
            retry=retry,
            interrupted=interrupted,
        )

    def one_by_one(offset: int) -> ResumingReader:
        return ResumingReader(source, layer, offset, size, retry=retry, sleep=sleep)

    return AcceleratingReader(
        reader,
        in_parallel,
        one_by_one,
        size=size,
        min_remaining=2 * range_bytes,
        trial_bytes=2 * connections * range_bytes,
    )


class AcceleratingReader(BlobReader):
    """Reads over one connection until that proves slow, then in parallel if that is faster.

    Ranges cost requests and copies: a source nearby is fastest over one connection, where hashing is the
    bottleneck. So the time spent in reads is measured in intervals of a tenth of a second. If reads take more
    than half of two intervals in a row, at less than 128 MiB/s, several connections are tried for
    `trial_bytes`. They are kept if they are at least 1.25 times as fast, as with a source that limits each
    connection. If the processor or the network is the bottleneck, or ranges fail, one connection is used
    again.

    `size` is the layer's; with less than `min_remaining` bytes left nothing is tried. All are in bytes.
    """

    def __init__(
        self,
        reader: ResumingReader,
        in_parallel: Callable[[int], ParallelReader],
        one_by_one: Callable[[int], ResumingReader],
        *,
        size: int,
        min_remaining: int,
        trial_bytes: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader: ResumingReader | ParallelReader = reader
        self._in_parallel = in_parallel
        self._one_by_one = one_by_one
        self._size = size
        self._min_remaining = min_remaining
        self._trial_bytes = trial_bytes
        self._clock = clock
        # Guards the reader against a `close` from another thread while it is replaced.
        self._lock = threading.Lock()
        self._closed = False
        self._settled = False
        self._slow_before = False
        self._rate = 0.0
        self._measure()

    @property
    def parallel(self) -> bool:
        """Whether it reads in parallel at the moment."""
        return isinstance(self._reader, ParallelReader)

    def readinto(self, buffer: memoryview, /) -> int:
        """See BlobReader. Raises Interrupted too."""
        begun = self._clock()
        try:
            count = self._reader.readinto(buffer)
        except (RangeIgnored, ConnectionCut):
            if not self.parallel or self._closed:
                raise
            count = self._fall_back(buffer)
        if not count and self.parallel and self._reader.position < self._size:
            count = self._fall_back(buffer)
        if not self._settled:
            self._bytes += count
            self._waited += self._clock() - begun
            self._adapt()
        return count

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._reader.close()

    def _adapt(self) -> None:
        """Change to several connections, or back, once enough was measured."""
        spent = self._clock() - self._since
        if isinstance(self._reader, ParallelReader):
            if self._bytes >= self._trial_bytes:
                self._settled = True
                if self._bytes < _MIN_SPEEDUP * self._rate * spent:
                    # The ranges in progress are still read.
                    self._reader.wind_down()
        elif spent >= _INTERVAL_SECONDS:
            self._rate = self._bytes / spent
            slow = self._waited >= spent / 2 and self._bytes < _FAST_BYTES_PER_SECOND * self._waited
            if self._size - self._reader.position < self._min_remaining:
                self._settled = True
            elif slow and self._slow_before:
                self._continue_with(self._in_parallel)
            # Once is not enough: a source may be fast at first and slow from then on.
            self._slow_before = slow
            self._measure()

    def _measure(self) -> None:
        self._since = self._clock()
        self._waited = 0.0
        self._bytes = 0

    def _fall_back(self, buffer: memoryview) -> int:
        self._settled = True
        self._continue_with(self._one_by_one)
        return self._reader.readinto(buffer)

    def _continue_with(
        self, new_reader: Callable[[int], ResumingReader] | Callable[[int], ParallelReader]
    ) -> None:
        """Replace the reader by another one at the same byte."""
        self._reader.close()
        with self._lock:
            if self._closed:
                raise ConnectionCut("layer", self._reader.position, "closed")
            self._reader = new_reader(self._reader.position)
