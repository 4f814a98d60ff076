"""The piece length of a torrent. It must never change, as every rbtorrent id depends on it."""

from __future__ import annotations

MIN_LENGTH = 64 * 1024
MAX_LENGTH = 16 * 1024 * 1024
MAX_PIECES = 1024


def piece_length(size: int) -> int:
    """Return the piece length, in bytes, for a layer of `size` bytes.

    The smallest power of two from 64 KiB to 16 MiB that gives at most 1024 pieces; layers above
    16 GiB get 16 MiB and more pieces. Raises ValueError for a size below 0.
    """
    if size < 0:
        raise ValueError(f"a layer cannot have {size} bytes")
    length = MIN_LENGTH
    while length < MAX_LENGTH and length * MAX_PIECES < size:
        length *= 2
    return length
