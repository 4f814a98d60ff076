"""The lists of peers in the service's answers: when a download requests one, and to whom it connects."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from core.swarm.messages import MAX_OPENED, MAX_PEERS, Peer

_RECONNECT_SECONDS = 10.0
_CURRENT_SECONDS = 5.0
"""How long a list is current. Nodes that join later connect to this one."""


class PeerLists:
    """The peers of one download. `clock` returns seconds that only grow."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.named = 0
        """The number of peers in the last list."""
        self._clock = clock
        self._listed_at = float("-inf")
        self._requested = False
        self._opened: dict[tuple[str, int], float] = {}
        """When this node connected last to each peer."""

    def to_request(self, connections: int) -> int:
        """Return how many peers the next answer may list: 0 if the node would not connect to them.

        A list has a kilobyte and more, which the origin's line carries once or twice a second for each node.
        """
        current = self._clock() < self._listed_at + _CURRENT_SECONDS
        self._requested = connections < MAX_OPENED and not (current and connections >= self.named > 0)
        return MAX_PEERS if self._requested else 0

    def to_connect(self, listed: Sequence[Peer], connections: int) -> list[tuple[str, int]]:
        """Choose among the peers of an answer those to connect to.

        Not beyond MAX_OPENED connections: the remaining ones are for nodes that join later.
        """
        if not (listed or self._requested):
            return []
        now = self._clock()
        self.named, self._listed_at = len(listed), now
        chosen: list[tuple[str, int]] = []
        for peer in listed:
            address = (peer.ip, peer.port)
            if len(chosen) >= MAX_OPENED - connections:
                break
            if now - self._opened.get(address, float("-inf")) >= _RECONNECT_SECONDS:
                self._opened[address] = now
                chosen.append(address)
        return chosen

    def disconnected(self) -> None:
        """Forget the connections: the torrent was removed."""
        self._opened.clear()
        self.named = 0
