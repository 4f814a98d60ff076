"""Stream a layer from the registry into the cache's file, with as many requests as readers need."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable
from pathlib import Path

from core.blobs.source import BlobReader
from core.errors import ConnectionCut, DockerTorrentsError, RangeIgnored, TimedOut, Unavailable
from node.counters import Counters
from node.fallback import ReaderState
from node.origin import Origin, PulledLayer

BLOCK = 64 * 1024
MAX_STREAMS = 4
"""The most concurrent requests for one layer."""
MAX_AHEAD = 16
"""A reader this many blocks ahead of a stream waits for it; one farther ahead gets its own stream, if need
be instead of one that no reader follows any more.
"""
_MAX_ATTEMPTS = 3
_TRANSIENT = (ConnectionCut, TimedOut)
_TICK = 0.5


class HttpFile:
    """The layer's file while it is filled, and which blocks it has: at first those of `present`."""

    def __init__(self, path: Path, size: int, present: bytes | None = None) -> None:
        self.size = size
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._descriptor, size)
        count = -(-size // BLOCK)
        self._present = bytearray(count)
        if present is not None and len(present) == count and self._holds(present.count(1)):
            self._present[:] = present

    @property
    def blocks(self) -> int:
        return len(self._present)

    @property
    def present(self) -> bytes:
        """A byte for each block, 1 if it is present."""
        return bytes(self._present)

    @property
    def done(self) -> int:
        """The number of bytes present, the last block counted as a full one."""
        return min(self.size, self._present.count(1) * BLOCK)

    @property
    def complete(self) -> bool:
        return 0 not in self._present

    def has(self, block: int) -> bool:
        return bool(self._present[block])

    def first_missing(self, block: int) -> int | None:
        """Return the first missing block from `block` on, else the first of all; None if none is missing."""
        found = self._present.find(0, block)
        found = self._present.find(0) if found < 0 else found
        return None if found < 0 else found

    def write(self, block: int, data: memoryview) -> None:
        """Write a whole block. Raises OSError."""
        offset = block * BLOCK
        while data:
            written = os.pwrite(self._descriptor, data, offset)
            offset, data = offset + written, data[written:]
        self._present[block] = 1

    def read(self, offset: int, limit: int) -> bytes | None:
        """Return bytes of the block at `offset`; None if it is missing."""
        block = offset // BLOCK
        if not self._present[block]:
            return None
        end = min((block + 1) * BLOCK, self.size)
        return os.pread(self._descriptor, min(limit, end - offset), offset)

    def sync(self) -> bytes:
        """Flush to the disk, and return the blocks that are certainly on it. Raises OSError."""
        present = self.present
        os.fdatasync(self._descriptor)
        return present

    def _holds(self, blocks: int) -> bool:
        """Return whether the file occupies that many blocks, the last of which may be short."""
        return os.fstat(self._descriptor).st_blocks * 512 > (blocks - 1) * BLOCK

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Stream:
    """One request, which fills the file from `block` on until it reaches a present block."""

    def __init__(self, block: int) -> None:
        self.block = block
        self.body: BlobReader | None = None
        self.cancelled = False
        self.from_start = False
        """Whether the registry ignores ranges, so that present blocks must be read again."""

    def cancel(self) -> None:
        self.cancelled = True
        if self.body is not None:
            self.body.close()


class HttpDownload:
    """Fills `file`. `readers` returns the state of each reader; `changed` is notified of progress."""

    def __init__(
        self,
        layer: PulledLayer,
        file: HttpFile,
        origin: Callable[[], Origin],
        readers: Callable[[], list[ReaderState]],
        changed: threading.Condition,
        counters: Counters,
    ) -> None:
        self.file = file
        self.received = 0
        self._layer = layer
        self._origin = origin
        self._readers = readers
        self._changed = changed
        self._counters = counters
        self._streams: dict[_Stream, threading.Thread] = {}
        self._max_streams = MAX_STREAMS
        """The most streams at once. Lowered until the end of the download if the registry refuses one."""
        self._failures = 0
        self._error: Exception | None = None

    def run(self, stop: Callable[[], bool]) -> bool:
        """Fill the file until it is complete (True) or `stop` (False), which is checked twice a second.

        Raises RemoteError after several consecutive requests without a byte, OSError if the file cannot be
        written.
        """
        try:
            while not self.file.complete:
                with self._changed:
                    if self._error is not None:
                        raise self._error
                    self._start_streams()
                    self._changed.wait(_TICK)
                if not self.file.complete and stop():
                    return False
            return True
        finally:
            self._end_streams()

    def _start_streams(self) -> None:
        readers = self._readers()
        starts = [reader.offset // BLOCK for reader in readers if reader.waiting_since is not None]
        if not starts and not self._streams:
            starts = [0]
        for start in starts:
            block = self.file.first_missing(start)
            if block is None or any(0 <= block - stream.block < MAX_AHEAD for stream in self._streams):
                continue
            if block != start and self._streams:
                continue  # the reader is served; one stream continues with the rest
            if len(self._streams) >= self._max_streams:
                self._end_one_without_reader(readers)
                return
            stream = _Stream(block)
            context = contextvars.copy_context()
            thread = threading.Thread(
                target=context.run, args=(self._fill, stream), name="layer by http", daemon=True
            )
            self._streams[stream] = thread
            thread.start()

    def _end_one_without_reader(self, readers: list[ReaderState]) -> None:
        """Make room for a stream, unless one is ending already. What it would have filled is filled later."""
        if any(stream.cancelled for stream in self._streams):
            return
        next_blocks = [self.file.first_missing(reader.offset // BLOCK) for reader in readers]
        for stream in self._streams:
            followed = any(
                block is not None and 0 <= block - stream.block < MAX_AHEAD for block in next_blocks
            )
            # A stream that must read the layer from its start can be restarted nowhere else.
            if not followed and not stream.from_start:
                stream.cancel()
                return

    def _fill(self, stream: _Stream) -> None:
        begun = self.received
        try:
            self._copy(stream)
        except (DockerTorrentsError, OSError) as error:
            with self._changed:
                if not stream.cancelled:
                    self._failures = 0 if self.received > begun else self._failures + 1
                    if isinstance(error, Unavailable) and len(self._streams) > 1:
                        # The registry may limit concurrent requests: the others continue.
                        self._max_streams = len(self._streams) - 1
                    elif not isinstance(error, _TRANSIENT) or self._failures >= _MAX_ATTEMPTS:
                        self._error = error
        finally:
            with self._changed:
                self._streams.pop(stream, None)
                self._changed.notify_all()

    def _copy(self, stream: _Stream) -> None:
        body = self._open(stream)
        stream.body = body
        buffer = memoryview(bytearray(BLOCK))
        try:
            for block in range(stream.block, self.file.blocks):
                stream.block = block
                if self.file.has(block) and not stream.from_start:
                    return
                size = min(BLOCK, self.file.size - block * BLOCK)
                filled = 0
                while filled < size and not stream.cancelled:
                    count = body.readinto(buffer[filled:size])
                    if not count:
                        raise ConnectionCut("registry", block * BLOCK + filled, "the body ended")
                    filled += count
                if stream.cancelled:
                    return
                if not self.file.has(block):
                    self.file.write(block, buffer[:size])
                    self._counters.received("registry", size)
                with self._changed:
                    self.received += size
                    self._changed.notify_all()
        finally:
            body.close()

    def _open(self, stream: _Stream) -> BlobReader:
        offset = stream.block * BLOCK
        try:
            return self._origin().open(offset, self.file.size - offset)
        except RangeIgnored:
            if offset == 0:
                raise
            stream.block, stream.from_start = 0, True
            return self._origin().open(0, self.file.size)

    def _end_streams(self) -> None:
        with self._changed:
            streams = dict(self._streams)
        for stream, thread in streams.items():
            stream.cancel()
            thread.join()
