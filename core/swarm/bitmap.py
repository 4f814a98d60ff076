"""A set of chunks, sent as a bitmap: the first chunk is the highest bit of the first byte (as in BEP 3)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bitmap:
    """Some of `length` chunks. Iterates over their indexes, in ascending order."""

    length: int
    data: bytes

    def __post_init__(self) -> None:
        if len(self.data) != (self.length + 7) // 8:
            raise ValueError(f"a bitmap of {len(self.data)} bytes for {self.length} chunks")
        spare = len(self.data) * 8 - self.length
        if spare and self.data[-1] & ((1 << spare) - 1):
            raise ValueError("the bitmap has bits beyond the last chunk")

    @classmethod
    def of(cls, length: int, chunks: Iterable[int]) -> Bitmap:
        """Return the bitmap of `chunks`. Raises ValueError if one of them is outside 0 to `length` - 1."""
        data = bytearray((length + 7) // 8)
        for chunk in chunks:
            if not 0 <= chunk < length:
                raise ValueError(f"chunk {chunk} of {length}")
            data[chunk >> 3] |= 0x80 >> (chunk & 7)
        return cls(length, bytes(data))

    @classmethod
    def full(cls, length: int) -> Bitmap:
        """Return the bitmap of all chunks."""
        width = (length + 7) // 8 * 8
        return cls(length, (((1 << length) - 1) << (width - length)).to_bytes(width // 8, "big"))

    @classmethod
    def from_base64(cls, length: int, text: str) -> Bitmap:
        """Decode a bitmap. Raises ValueError if `text` is not the standard base64 of one of `length` bits."""
        try:
            data = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("the bitmap is not base64") from None
        return cls(length, data)

    def to_base64(self) -> str:
        return base64.b64encode(self.data).decode()

    @property
    def is_full(self) -> bool:
        """Return whether every chunk is set."""
        return self.to_int() == (1 << self.length) - 1

    def to_int(self) -> int:
        """Return the bits as a number in which the first chunk is the highest of `length` bits."""
        return int.from_bytes(self.data, "big") >> (len(self.data) * 8 - self.length)

    def __contains__(self, chunk: object) -> bool:
        if not isinstance(chunk, int) or not 0 <= chunk < self.length:
            return False
        return bool(self.data[chunk >> 3] & (0x80 >> (chunk & 7)))

    def __iter__(self) -> Iterator[int]:
        for index, byte in enumerate(self.data):
            if byte:
                for bit in range(8):
                    if byte & (0x80 >> bit):
                        yield index * 8 + bit
