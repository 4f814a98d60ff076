"""The division of a layer into chunks, which nodes fetch from the origin on behalf of the swarm."""

from __future__ import annotations

from dataclasses import dataclass

MIN_CHUNK_LENGTH = 256 * 1024
MAX_CHUNK_LENGTH = 16 * 1024 * 1024
PREFERRED_CHUNKS = 256
MAX_CHUNKS = 65_536
"""Chunks of a layer of 1 TiB."""


def chunk_length(size: int, piece_length: int) -> int:
    """Return the chunk length, in bytes, for a layer of `size` bytes.

    The smallest power of two from 256 KiB to 16 MiB that gives at most 256 chunks; 16 MiB for larger layers.
    Rounded up to whole pieces, which changes nothing for torrents brewed here. Raises ValueError if `size` or
    `piece_length` is not positive.
    """
    if size <= 0 or piece_length <= 0:
        raise ValueError(f"no chunks in {size} bytes with pieces of {piece_length}")
    length = MIN_CHUNK_LENGTH
    while length < MAX_CHUNK_LENGTH and length * PREFERRED_CHUNKS < size:
        length *= 2
    return -(-length // piece_length) * piece_length


@dataclass(frozen=True, slots=True)
class Chunks:
    """The chunks of a layer of `size` bytes whose torrent has pieces of `piece_length` bytes."""

    size: int
    piece_length: int
    length: int

    @classmethod
    def of(cls, size: int, piece_length: int) -> Chunks:
        """Divide a layer. Raises ValueError as `chunk_length` does."""
        return cls(size, piece_length, chunk_length(size, piece_length))

    @property
    def count(self) -> int:
        """The number of chunks; the last one may be shorter than the others."""
        return -(-self.size // self.length)

    def span(self, chunk: int) -> tuple[int, int]:
        """Return the offsets of the chunk's first byte and after its last one."""
        self._check(chunk)
        return chunk * self.length, min((chunk + 1) * self.length, self.size)

    def pieces(self, chunk: int) -> range:
        """Return the indexes of the chunk's pieces."""
        start, stop = self.span(chunk)
        return range(start // self.piece_length, -(-stop // self.piece_length))

    def chunk_of(self, piece: int) -> int:
        """Return the chunk that holds a piece."""
        chunk = piece * self.piece_length // self.length
        self._check(chunk)
        return chunk

    def _check(self, chunk: int) -> None:
        if not 0 <= chunk < self.count:
            raise ValueError(f"chunk {chunk} of {self.count}")
