"""One pass over a layer: SHA-256 of the whole and SHA-1 of each piece, in constant memory.

The calling thread reads into a small ring of buffers, and two threads hash them: hashlib releases the
interpreter lock while it works. The slower of the two hashes sets the pace.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from core.errors import Interrupted, SizeMismatch

# Measured on two cores. Waking a thread costs more than reading a buffer, so the ring has two halves, and
# the reader is woken once a half. More than some 8 MiB in all would fall out of the processor's cache
# between the read and the hashes.
BUFFER_SIZE = 512 * 1024
HALF = 8

# Below this, starting threads costs more than they save.
INLINE_SIZE = 1024 * 1024


class Readable(Protocol):
    """A source of bytes: a core.blobs.source.BlobReader, an unbuffered file."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


@dataclass(frozen=True, slots=True)
class LayerHashes:
    """The result of one pass: size in bytes, SHA-256 in hex, the pieces' SHA-1 digests end to end."""

    size: int
    sha256: str
    piece_length: int
    pieces: bytes

    @property
    def piece_count(self) -> int:
        return len(self.pieces) // 20


class PieceHasher:
    """Computes the SHA-1 of each piece of a stream, in parts of any length (BEP 3, `pieces`)."""

    def __init__(self, piece_length: int) -> None:
        self._length = piece_length
        self._missing = piece_length
        self._piece = hashlib.sha1(usedforsecurity=False)
        self._digests = bytearray()

    def update(self, part: memoryview) -> None:
        """Hash the next part of the stream."""
        while len(part) >= self._missing:
            self._piece.update(part[: self._missing])
            self._digests += self._piece.digest()
            part = part[self._missing :]
            self._piece = hashlib.sha1(usedforsecurity=False)
            self._missing = self._length
        self._piece.update(part)
        self._missing -= len(part)

    def digests(self) -> bytes:
        """Return 20 bytes for each piece so far; a shorter last piece counts as one."""
        if self._missing == self._length:
            return bytes(self._digests)
        return bytes(self._digests) + self._piece.digest()


def hash_layer(
    reader: Readable,
    size: int,
    piece_length: int,
    *,
    interrupted: Callable[[], bool] = lambda: False,
    buffer_size: int = BUFFER_SIZE,
) -> LayerHashes:
    """Read all of `reader`, which should hold `size` bytes, and hash it.

    `interrupted` is called before each read. Raises Interrupted; SizeMismatch as soon as there are fewer
    bytes than `size`, or one more (`got` is then size + 1, even if more would follow); and the errors of
    the reader. All threads end in any case.
    """
    whole = hashlib.sha256()
    pieces = PieceHasher(piece_length)
    filler = _Filler(reader, size, interrupted)
    if size < INLINE_SIZE:
        buffer = memoryview(bytearray(min(buffer_size, size + 1)))
        while part := filler.fill(buffer):
            whole.update(part)
            pieces.update(part)
    else:
        _hash_in_threads(filler, [whole.update, pieces.update], buffer_size)
    return LayerHashes(filler.total, whole.hexdigest(), piece_length, pieces.digests())


class _Filler:
    """Fills buffers from a reader, and checks its size."""

    def __init__(self, reader: Readable, size: int, interrupted: Callable[[], bool]) -> None:
        self._reader = reader
        self._size = size
        self._interrupted = interrupted
        self.total = 0

    def fill(self, buffer: memoryview) -> memoryview:
        """Fill `buffer`, and return the filled part, which is shorter or empty at the end.

        At most one byte beyond the layer's size is read, which ends an endless body.
        """
        wanted = min(len(buffer), self._size + 1 - self.total)
        filled = 0
        while filled < wanted:
            if self._interrupted():
                raise Interrupted
            count = self._reader.readinto(buffer[filled:wanted])
            if not count:
                break
            filled += count
        self.total += filled
        if self.total > self._size or (filled < wanted and self.total < self._size):
            raise SizeMismatch(self._size, self.total)
        return buffer[:filled]


class _HashThread:
    """A hash in its own thread: parts go in, and a token comes out for each HALF of them that is hashed.

    The thread is a daemon: it must not keep the process alive while the reader is stuck in a read.
    """

    def __init__(self, update: Callable[[memoryview], None]) -> None:
        self._update = update
        self._error: BaseException | None = None
        self._parts: SimpleQueue[memoryview | None] = SimpleQueue()
        self._tokens: SimpleQueue[bool] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hash", daemon=True)
        self._thread.start()

    def put(self, part: memoryview) -> None:
        """Hash `part`, whose bytes must not change until `wait` has returned for it."""
        self._parts.put(part)

    def wait(self) -> None:
        """Wait until the next HALF parts are hashed. Raises the errors of hashing."""
        if not self._tokens.get():
            self.check()

    def end(self) -> None:
        """Hash the rest, and end the thread."""
        self._parts.put(None)
        self._thread.join()

    def check(self) -> None:
        """Raise the errors of hashing."""
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            for number in itertools.count(1):
                part = self._parts.get()
                if part is None:
                    return
                self._update(part)
                if number % HALF == 0:
                    self._tokens.put(True)
        except BaseException as error:  # noqa: BLE001 - raised again in the reader's thread
            self._error = error
            self._tokens.put(False)


def _hash_in_threads(filler: _Filler, updates: list[Callable[[memoryview], None]], buffer_size: int) -> None:
    """Fill the ring's buffers in turn; a half is filled again when every thread has hashed it."""
    ring = [memoryview(bytearray(buffer_size)) for _ in range(2 * HALF)]
    threads: list[_HashThread] = []
    try:
        for update in updates:
            threads.append(_HashThread(update))
        for number in itertools.count():
            if number >= len(ring) and number % HALF == 0:
                for thread in threads:
                    thread.wait()
            part = filler.fill(ring[number % len(ring)])
            if not part:
                break
            for thread in threads:
                thread.put(part)
    finally:
        for thread in threads:
            thread.end()
    for thread in threads:
        thread.check()
