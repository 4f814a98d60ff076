"""The leases of one layer's chunks, and the chunks that its swarm already has."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

from core.swarm.bitmap import Bitmap

SHORTEST_LEASE = 5.0
LONGEST_LEASE = 600.0
_REMEMBERED_FETCHES = 16


@dataclass(frozen=True, slots=True)
class Turn:
    """A lease: `node` fetches the chunk until `expires`."""

    node: str
    since: float
    expires: float


class Turns:
    """The leases of one layer's chunks.

    Sets of chunks are numbers in which the first chunk is the highest of `chunks` bits, so a call for a layer
    of 65,536 chunks takes a few microseconds.
    """

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self._all = (1 << chunks) - 1
        self._never_leased = self._all
        self._live: dict[int, Turn] = {}
        self._last: dict[int, Turn | None] = {}
        """Each chunk that was ever leased, in the order of its last lease; None once it was fetched."""
        self._held: dict[int, int] = {}
        """Held chunks, by the second of their expiry."""
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED_FETCHES)

    def hold(self, chunks: Bitmap, until: float) -> None:
        """Record that the swarm has `chunks` until `until`."""
        second = math.ceil(until)
        self._held[second] = self._held.get(second, 0) | chunks.to_int()

    def fetched(self, chunk: int, node: str, now: float) -> None:
        """Record that `node` has fetched `chunk`; if it held the lease, its duration counts."""
        last = self._last.get(chunk)
        if last is not None and last.node == node:
            self._seconds.append(now - last.since)
            self._last[chunk] = None
        live = self._live.get(chunk)
        if live is not None and live.node == node:
            del self._live[chunk]

    def release(self, node: str, chunks: Bitmap | None = None) -> None:
        """End the node's leases of `chunks`, or all of them."""
        for chunk in [chunk for chunk, turn in self._live.items() if turn.node == node]:
            if chunks is None or chunk in chunks:
                del self._live[chunk]

    def expire(self, now: float) -> int:
        """Remove expired leases and chunks. Return the number of live leases."""
        for chunk in [chunk for chunk, turn in self._live.items() if turn.expires <= now]:
            del self._live[chunk]
        for second in [second for second in self._held if second <= now]:
            del self._held[second]
        return len(self._live)

    def of(self, node: str) -> dict[int, Turn]:
        """Return the live leases of `node` by chunk."""
        return {chunk: turn for chunk, turn in self._live.items() if turn.node == node}

    def lease(self, node: str, now: float) -> int | None:
        """Lease a chunk to `node`: the lowest one never leased, else the least recently leased one.

        Return None if every chunk is leased or held by the swarm. Call `expire` before.
        """
        chunk = self._next()
        if chunk is None:
            return None
        turn = Turn(node, now, now + self.lease_seconds)
        self._never_leased &= ~self._bit(chunk)
        self._last.pop(chunk, None)
        self._last[chunk] = self._live[chunk] = turn
        return chunk

    @property
    def lease_seconds(self) -> float:
        """Return the duration of a new lease: four times that of recent chunks."""
        if not self._seconds:
            return SHORTEST_LEASE
        return min(max(SHORTEST_LEASE, 4 * statistics.median(self._seconds)), LONGEST_LEASE)

    def _next(self) -> int | None:
        free = self._all
        for held in self._held.values():
            free &= ~held
        for chunk in self._live:
            free &= ~self._bit(chunk)
        if fresh := free & self._never_leased:
            return self.chunks - fresh.bit_length()
        if not free:
            return None
        return next((chunk for chunk in self._last if free & self._bit(chunk)), None)

    def _bit(self, chunk: int) -> int:
        return 1 << (self.chunks - 1 - chunk)
