"""Which pieces of a torrent are requested first: the lowest missing ones, so that readers see progress."""

from __future__ import annotations

import time
from collections import deque

_MIN_PIECES = 2
"""The least number of missing pieces that are requested before others."""
_PREFERRED_SHARE = 1 / 3
"""Their share of all requested pieces, which are about those of the next second (`request_queue_time`)."""


class PieceOrder:
    """Chooses the pieces to request before others. Not thread-safe."""

    def __init__(self) -> None:
        self._chosen: set[int] = set()
        self._lowest = 0
        self._received: deque[float] = deque()
        """When the pieces of the last second came from peers."""

    def reset(self) -> None:
        """Begin again for another torrent of the same file."""
        self._chosen.clear()
        self._lowest = 0

    def received(self) -> None:
        """Count a piece that came from a peer now."""
        self._received.append(time.monotonic())

    def choose(self, have: bytearray) -> set[int]:
        """Return the pieces to request first that were not chosen before. `have` has 0 for missing pieces."""
        piece, most = have.find(0, self._lowest), self._limit()
        self._lowest = max(0, piece)
        chosen: set[int] = set()
        while piece >= 0 and len(chosen) < most:
            chosen.add(piece)
            piece = have.find(0, piece + 1)
        new, self._chosen = chosen - self._chosen, chosen
        return new

    def _limit(self) -> int:
        while self._received and time.monotonic() - self._received[0] > 1.0:
            self._received.popleft()
        return max(_MIN_PIECES, int(len(self._received) * _PREFERRED_SHARE))
