"""Reads several ranges of one blob in parallel, in a bounded window, and returns them in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from core.blobs.resume import ResumingReader, RetryPolicy
from core.blobs.source import BlobReader, BlobSource
from core.errors import ConnectionCut, Interrupted
from core.layer import Layer
from core.logs import start_in_context

# The size of one read. Bytes are returned as they arrive; those of a failed read are lost.
_READ_BYTES = 256 * 1024

# How often a waiting read checks whether it is interrupted, in seconds.
_TICK = 0.1

# How long `close` waits for its threads, in seconds. A thread that waits for a connection or for response
# headers cannot be woken: it ends with the source's time-out.
_GRACE = 2.0


class _Range:
    """A range in progress: `filled` bytes of `buffer` have arrived, `taken` of them were returned."""

    def __init__(self, reader: ResumingReader, length: int, buffer: memoryview) -> None:
        self.reader = reader
        self.length = length
        self.buffer = buffer
        self.filled = 0
        self.taken = 0
        self.error: BaseException | None = None


class ParallelReader(BlobReader):
    """The bytes of a layer from `offset` to `end`, read over up to `connections` connections.

    At most `connections` ranges of `range_bytes` are being read or waiting to be returned, which bounds the
    memory. Each is resumed separately when it fails. An error of a range is raised after all bytes before it:
    ConnectionCut, NotFound, RangeIgnored ...

    `interrupted` is called while a read waits; Interrupted is raised if it returns True. Closing ends the
    threads.
    """

    def __init__(
        self,
        source: BlobSource,
        layer: Layer,
        offset: int,
        end: int,
        *,
        connections: int,
        range_bytes: int,
        retry: RetryPolicy | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source = source
        self._layer = layer
        self._end = end
        self._connections = connections
        self._range_bytes = range_bytes
        self._retry = retry
        self._interrupted = interrupted
        # Guards all below, and is notified of every change.
        self._changed = threading.Condition()
        self._window: deque[_Range] = deque()
        self._spare: list[memoryview] = []
        self._next = offset
        self._stopping = False
        self.position = offset
        """The offset in the blob of the next byte."""
        count = min(connections, -(-(end - offset) // range_bytes))
        self._threads = [start_in_context(f"range-{number}", self._work) for number in range(count)]

    def readinto(self, buffer: memoryview, /) -> int:
        """See BlobReader. Raises Interrupted too."""
        if self.position >= self._end:
            return 0
        with self._changed:
            head = self._wait_for_bytes()
        # The bytes up to `filled` do not change any more, so they are copied outside the lock.
        count = min(len(buffer), head.filled - head.taken)
        buffer[:count] = head.buffer[head.taken : head.taken + count]
        head.taken += count
        self.position += count
        if head.taken == head.length:
            with self._changed:
                self._window.popleft()
                self._spare.append(head.buffer)
                self._changed.notify_all()
        return count

    def wind_down(self) -> None:
        """Request no more ranges: the reader ends after those in progress."""
        with self._changed:
            self._end = self._next
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads and wait for them, at most two seconds. May be called from any thread."""
        with self._changed:
            self._stopping = True
            readers = [part.reader for part in self._window]
            self._changed.notify_all()
        for reader in readers:
            reader.close()
        deadline = time.monotonic() + _GRACE
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _wait_for_bytes(self) -> _Range:
        """Wait until the first range of the window has bytes, and return it. The lock is held."""
        while True:
            if self._stopping:
                raise ConnectionCut(f"blob {self._layer.digest}", self.position, "closed")
            if self._window:
                head = self._window[0]
                if head.filled > head.taken:
                    return head
                if head.error is not None:
                    raise head.error
            if self._interrupted():
                raise Interrupted
            self._changed.wait(_TICK)

    def _work(self) -> None:
        """Read one range after another until none is left."""
        while (part := self._next_range()) is not None:
            try:
                self._fetch(part)
            except BaseException as error:  # noqa: BLE001 - raised again by `readinto`
                with self._changed:
                    part.error = error
                    # Nothing after this range will be returned.
                    self._next = self._end
                    self._changed.notify_all()

    def _next_range(self) -> _Range | None:
        with self._changed:
            while not self._stopping and self._next < self._end:
                if len(self._window) < self._connections:
                    length = min(self._range_bytes, self._end - self._next)
                    # Buffers are reused: new memory costs more than filling it.
                    buffer = self._spare.pop() if self._spare else memoryview(bytearray(self._range_bytes))
                    reader = ResumingReader(
                        self._source,
                        self._layer,
                        self._next,
                        self._next + length,
                        exact=True,
                        retry=self._retry,
                        sleep=self._sleep,
                    )
                    part = _Range(reader, length, buffer)
                    self._next += length
                    self._window.append(part)
                    return part
                self._changed.wait()
        return None

    def _fetch(self, part: _Range) -> None:
        with part.reader as reader:
            while part.filled < part.length:
                upto = min(part.filled + _READ_BYTES, part.length)
                count = reader.readinto(part.buffer[part.filled : upto])
                with self._changed:
                    part.filled += count
                    # Only the first range has a waiting reader.
                    if part is self._window[0]:
                        self._changed.notify_all()

    def _sleep(self, seconds: float) -> None:
        """Pause before a range is retried. Raises Interrupted as soon as the reader is closed."""
        with self._changed:
            if self._changed.wait_for(lambda: self._stopping, seconds):
                raise Interrupted
