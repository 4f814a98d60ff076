"""A layer source in memory that can be made to fail, for tests without sockets."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Self

from core.digest import Digest
from core.errors import ConnectionCut, NotFound, RangeIgnored, TimedOut, Unavailable
from core.layer import Layer

Kind = Literal["cut", "timeout", "early end", "unavailable", "refused connection"]


@dataclass(frozen=True)
class Fault:
    """The fault of one opening of the source: it fails after `after` bytes.

    "early end" is an end that looks like one; "refused connection" breaks the opening itself.
    """

    kind: Kind
    after: int = 0


@dataclass
class MemorySource:
    """Layers in memory. Each opening takes the next of `faults`.

    `opened` records (offset, length) of every opening. A read returns at most `most_per_read` bytes.
    `before_read` is called before each read, with its offset; a test may wait or raise in it.
    """

    layers: dict[Digest, bytes]
    faults: Iterable[Fault | None] = ()
    parallel: bool = True
    ignores_ranges: bool = False
    most_per_read: int | None = None
    before_read: Callable[[int], object] = lambda _offset: None
    opened: list[tuple[int, int | None]] = field(default_factory=list)
    open_readers: set[MemoryReader] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _coming: Iterator[Fault | None] | None = None

    def size(self, layer: Layer) -> int:
        return len(self._content(layer))

    def open(self, layer: Layer, offset: int, length: int | None = None) -> MemoryReader:
        content = self._content(layer)
        with self._lock:
            self._coming = self._coming or iter(self.faults)
            fault = next(self._coming, None)
            self.opened.append((offset, length))
        if fault and fault.kind == "refused connection":
            raise Unavailable("memory", "connection refused")
        if self.ignores_ranges and offset:
            raise RangeIgnored("memory")
        end = len(content) if length is None else offset + length
        reader = MemoryReader(self, content[:end], offset, fault)
        self.open_readers.add(reader)
        return reader

    def check(self) -> str:
        return f"memory holds {len(self.layers)} layers"

    def _content(self, layer: Layer) -> bytes:
        if layer.digest not in self.layers:
            raise NotFound(f"blob {layer.digest} in memory")
        return self.layers[layer.digest]


class MemoryReader:
    """Reads from `position` to the end of `content`, or to its fault."""

    def __init__(self, source: MemorySource, content: bytes, position: int, fault: Fault | None) -> None:
        self._source = source
        self._content = content
        self._position = position
        self._fault = fault
        self._breaks_at = len(content) if fault is None else min(position + fault.after, len(content))

    def readinto(self, buffer: memoryview, /) -> int:
        self._source.before_read(self._position)
        if self not in self._source.open_readers:
            raise ConnectionCut("memory", self._position, "closed")
        most = min(len(buffer), self._source.most_per_read or len(buffer))
        part = self._content[self._position : min(self._position + most, self._breaks_at)]
        if not part and self._fault:
            match self._fault.kind:
                case "cut":
                    raise ConnectionCut("memory", self._position, "connection reset")
                case "timeout":
                    raise TimedOut("memory", 1.0)
                case "unavailable":
                    raise Unavailable("memory", "out of order")
        buffer[: len(part)] = part
        self._position += len(part)
        return len(part)

    def close(self) -> None:
        self._source.open_readers.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
