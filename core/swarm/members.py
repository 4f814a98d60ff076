"""The members of one swarm: seeds and downloaders, the times of their calls, and the choice of peers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from random import Random

from core.swarm.messages import Peer

MAX_DOWNLOADERS_PER_SWARM = 20_000
MAX_SEEDS_PER_SWARM = 1_000
"""Enough for any number of downloaders, as each gets 50 of them."""
MEMBER_TTL = 3600.0
"""Seconds without a call after which a node is no longer listed as a peer."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the swarm."""

    peer: Peer
    joined: float
    last_call: float


class _MemberSet:
    """Members in the order of their last call, with fast random samples."""

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
        """Add or replace a member; remove the least recent one if there are too many."""
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

    def remove_expired(self, now: float) -> None:
        while self._members:
            node, member = next(iter(self._members.items()))
            if member.last_call > now - MEMBER_TTL:
                break
            self.remove(node)

    def sample(self, count: int, random: Random, *, exclude: str) -> list[Peer]:
        if count <= 0:
            return []
        # One more than needed: the excluded node may be among them.
        nodes = random.sample(self._nodes, min(count + 1, len(self._nodes)))
        return [self._members[node].peer for node in nodes if node != exclude][:count]


class Members:
    """The members of one swarm."""

    def __init__(self) -> None:
        self._downloaders = _MemberSet(MAX_DOWNLOADERS_PER_SWARM)
        self._seeds = _MemberSet(MAX_SEEDS_PER_SWARM)

    def __len__(self) -> int:
        return len(self._downloaders) + len(self._seeds)

    def record_downloader(self, node: str, peer: Peer, now: float) -> Member:
        """Record a call of an incomplete node."""
        self._seeds.remove(node)
        previous = self._downloaders.get(node)
        member = Member(peer, previous.joined if previous else now, now)
        self._downloaders.put(node, member)
        return member

    def record_seed(self, node: str, peer: Peer, now: float) -> None:
        """Record a call of a complete node."""
        self._downloaders.remove(node)
        self._seeds.put(node, Member(peer, now, now))

    def remove(self, node: str) -> None:
        """Remove a node."""
        self._downloaders.remove(node)
        self._seeds.remove(node)

    def remove_expired(self, now: float) -> None:
        """Remove the nodes that did not call within MEMBER_TTL."""
        self._downloaders.remove_expired(now)
        self._seeds.remove_expired(now)

    def choose_peers(self, count: int, random: Random, *, exclude: str) -> list[Peer]:
        """Return up to `count` other nodes than `exclude`: seeds first, then downloaders, each at random."""
        seeds = self._seeds.sample(count, random, exclude=exclude)
        return seeds + self._downloaders.sample(count - len(seeds), random, exclude=exclude)
