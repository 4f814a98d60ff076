"""The leases of one layer's chunks, and the chunks that its swarm already has."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass

from core.swarm.bitmap import Bitmap

MIN_LEASE_SECONDS = 5.0
MAX_LEASE_SECONDS = 600.0
_RECENT_FETCHES = 16


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """A lease of a chunk by `node`, from `granted` until `expires`."""

    node: str
    granted: float
    expires: float


class LayerLeases:
    """The leases of one layer's chunks.

    Sets of chunks are numbers in which the first chunk is the highest of `chunks` bits, so a call for a layer
    of 65,536 chunks takes a few microseconds.
    """

    def __init__(self, chunks: int) -> None:
        self._chunks = chunks
        self._all = (1 << chunks) - 1
        self._never_leased = self._all
        self._active: dict[int, LeaseRecord] = {}
        self._last_lease: dict[int, LeaseRecord | None] = {}
        """Each chunk that was ever leased, in the order of its last lease; None once it was fetched."""
        self._held: dict[int, int] = {}
        """Held chunks, by the second in which that report expires."""
        self._fetch_seconds: deque[float] = deque(maxlen=_RECENT_FETCHES)

    def record_held(self, chunks: Bitmap, until: float) -> None:
        """Record that the swarm has `chunks` until `until`."""
        second = math.ceil(until)
        self._held[second] = self._held.get(second, 0) | chunks.to_int()

    def record_fetched(self, chunk: int, node: str, now: float) -> None:
        """Record that `node` has fetched `chunk`; if it held the lease, its duration counts."""
        last = self._last_lease.get(chunk)
        if last is not None and last.node == node:
            self._fetch_seconds.append(now - last.granted)
            self._last_lease[chunk] = None
        active = self._active.get(chunk)
        if active is not None and active.node == node:
            del self._active[chunk]

    def release(self, node: str, chunks: Bitmap | None = None) -> None:
        """End the node's leases of `chunks`, or all of them."""
        for chunk in self.of_node(node):
            if chunks is None or chunk in chunks:
                del self._active[chunk]

    def expire(self, now: float) -> int:
        """Remove expired leases, and expired reports of held chunks. Return the number of active leases."""
        for chunk in [chunk for chunk, lease in self._active.items() if lease.expires <= now]:
            del self._active[chunk]
        for second in [second for second in self._held if second <= now]:
            del self._held[second]
        return len(self._active)

    def of_node(self, node: str) -> dict[int, LeaseRecord]:
        """Return the active leases of `node` by chunk."""
        return {chunk: lease for chunk, lease in self._active.items() if lease.node == node}

    def grant(self, node: str, now: float) -> int | None:
        """Lease a chunk to `node`: the lowest one never leased, else the least recently leased one.

        Return None if every chunk is leased or held by the swarm. Call `expire` before.
        """
        chunk = self._next_chunk()
        if chunk is None:
            return None
        self._never_leased &= ~self._bit(chunk)
        # Removed first: the chunk moves to the end of the order.
        self._last_lease.pop(chunk, None)
        self._last_lease[chunk] = self._active[chunk] = LeaseRecord(node, now, now + self.lease_seconds)
        return chunk

    @property
    def lease_seconds(self) -> float:
        """Return the duration of a new lease: four times that of recent fetches."""
        if not self._fetch_seconds:
            return MIN_LEASE_SECONDS
        return min(max(MIN_LEASE_SECONDS, 4 * statistics.median(self._fetch_seconds)), MAX_LEASE_SECONDS)

    def _next_chunk(self) -> int | None:
        free = self._all
        for held in self._held.values():
            free &= ~held
        for chunk in self._active:
            free &= ~self._bit(chunk)
        if fresh := free & self._never_leased:
            return self._chunks - fresh.bit_length()
        if not free:
            return None
        return next((chunk for chunk in self._last_lease if free & self._bit(chunk)), None)

    def _bit(self, chunk: int) -> int:
        return 1 << (self._chunks - 1 - chunk)
