"""The nodes in the swarm of one layer: complete ones, the times of their calls, and the choice of peers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from random import Random

from core.swarm.messages import Peer

MAX_NODES = 20_000
"""Incomplete nodes of one swarm."""
MAX_SEEDS = 1_000
"""Complete nodes of one swarm: enough for any number of others, as each gets 50 of them."""
FORGET_AFTER = 3600.0
"""Seconds without a call after which a node is no longer listed as a peer."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the swarm."""

    peer: Peer
    joined: float
    heard: float


class _Kind:
    """Nodes in the order of their last call, with fast random draws."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._members: OrderedDict[str, Member] = OrderedDict()
        self._nodes: list[str] = []
        """The same nodes in no particular order."""
        self._index: dict[str, int] = {}
        """The index of each node in `_nodes`."""

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, node: str) -> Member | None:
        return self._members.get(node)

    def put(self, node: str, member: Member) -> None:
        if node not in self._members:
            self._index[node] = len(self._nodes)
            self._nodes.append(node)
        self._members[node] = member
        self._members.move_to_end(node)
        if len(self._nodes) > self._limit:
            self.remove(next(iter(self._members)))

    def remove(self, node: str) -> None:
        if self._members.pop(node, None) is None:
            return
        index, last = self._index.pop(node), self._nodes.pop()
        if last != node:
            self._nodes[index] = last
            self._index[last] = index

    def forget_silent(self, now: float) -> None:
        while self._members:
            node, member = next(iter(self._members.items()))
            if member.heard > now - FORGET_AFTER:
                break
            self.remove(node)

    def draw(self, asking: str, count: int, random: Random) -> list[Peer]:
        if count <= 0:
            return []
        # One more than needed: the asking node may be among them.
        drawn = random.sample(self._nodes, min(count + 1, len(self._nodes)))
        return [self._members[node].peer for node in drawn if node != asking][:count]


class Members:
    """The nodes of one swarm."""

    def __init__(self) -> None:
        self._incomplete = _Kind(MAX_NODES)
        self._complete = _Kind(MAX_SEEDS)

    def __len__(self) -> int:
        return len(self._incomplete) + len(self._complete)

    def hear_node(self, node: str, peer: Peer, now: float) -> Member:
        """Record a call of an incomplete node."""
        self._complete.remove(node)
        known = self._incomplete.get(node)
        member = Member(peer, known.joined if known else now, now)
        self._incomplete.put(node, member)
        return member

    def hear_seed(self, node: str, peer: Peer, now: float) -> None:
        """Record a call of a complete node."""
        self._incomplete.remove(node)
        self._complete.put(node, Member(peer, now, now))

    def remove(self, node: str) -> None:
        """Remove a node."""
        self._incomplete.remove(node)
        self._complete.remove(node)

    def forget_silent(self, now: float) -> None:
        """Remove the nodes that did not call within the hour."""
        self._incomplete.forget_silent(now)
        self._complete.forget_silent(now)

    def peers(self, asking: str, count: int, random: Random) -> list[Peer]:
        """Return up to `count` other nodes: complete ones first, then others, each kind at random."""
        drawn = self._complete.draw(asking, count, random)
        return drawn + self._incomplete.draw(asking, count - len(drawn), random)
