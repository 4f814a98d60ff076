"""The lease book: decides which node fetches which chunk from the origin, and introduces nodes to each other.

The origin should be busy and send each chunk once. So about 16 chunks are under lease at a time, over the
layers of all swarms, and a node that has fetched one gets the next. All state is in memory and bounded;
losing it costs some chunks that are fetched twice.

Pure code: callers pass a monotonic time, and call from one thread at a time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from core.swarm.bitmap import Bitmap
from core.swarm.members import Member, Members
from core.swarm.messages import SEEDS_INTERVAL, Lease, Peer, SwarmRequest
from core.swarm.turns import Turns

SLOTS = 16
"""Leases at a time. Fewer leave the origin idle while nodes request the next chunk (4: twice the time)."""
CALLS_PER_SECOND = 140.0
"""Calls per second of nodes without a lease. With those of lease holders it is about 200."""
SHORTEST_INTERVAL = 1.0
NEW_INTERVAL, NEW_SECONDS = 0.4, 5.0
"""The shortest interval of a node that lacks chunks which no peer of it has, while it is new: it still looks
for peers. Later such calls were no use, and took 5 % of a line of 6 Mbit/s.
"""
HOLDERS_INTERVAL = 1.5
"""The interval of a node with leases; it also calls when it has fetched a chunk."""
SHORTEST_BELIEF = 5.0
"""A node's chunks count as held for two of its intervals, at least for this many seconds: it may be busy."""
UNSPREAD_SHARES = 2
"""A node has a slow link if it has fetched more chunks that no peer has than this many times its share of
leases: it gets no lease while others of its swarm request some, as these would wait for its chunks.
"""
SEEDS_GRACE = 3.0
"""Seconds in which a node that joins gets no lease if the swarm has seeds. They call so rarely that they may
have left long ago: a node that does not get the layer from them in this time gets leases anyway.
"""
MAX_SWARMS = 10_000
MAX_MEMBERS = 200_000
MAX_SIZES = 4
"""How many different numbers of chunks nodes may state for one layer. Each has a separate swarm."""
_SWEEP_EVERY = 1.0

_Key = tuple[str, int]
"""A swarm: the layer's hex digest and its number of chunks."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a node: peers, all its leases, and the seconds until it calls again."""

    peers: list[Peer]
    leases: list[Lease]
    again: float


@dataclass(slots=True)
class _Swarm:
    turns: Turns
    members: Members = field(default_factory=Members)
    counted: int = 0
    """Its share of the sum of members over all swarms."""
    seeded_until: float = float("-inf")


class LeaseBook:
    """All swarms of one origin."""

    def __init__(
        self,
        random: Random,
        max_swarms: int = MAX_SWARMS,
        max_members: int = MAX_MEMBERS,
    ) -> None:
        self._random = random
        self._max_swarms = max_swarms
        self._max_members = max_members
        self._swarms: OrderedDict[_Key, _Swarm] = OrderedDict()
        """In the order of their last call, the oldest first."""
        self._sizes: dict[str, list[int]] = {}
        """The stated numbers of chunks of each layer."""
        self._leasing: set[_Key] = set()
        """The swarms that may have live leases."""
        self._members = 0
        self._active: dict[tuple[_Key, str], float] = {}
        """Incomplete nodes, and when each expires."""
        self._wanting: dict[tuple[_Key, str], float] = {}
        """Those of them that request leases."""
        self._spreading: dict[tuple[_Key, str], float] = {}
        """Those that request leases and pass on their chunks."""
        self._swept_at = float("-inf")

    @property
    def swarms(self) -> int:
        """The number of swarms."""
        return len(self._swarms)

    @property
    def members(self) -> int:
        """The number of nodes, counted once for each of their layers."""
        return self._members

    @property
    def active(self) -> int:
        """The number of downloading nodes, counted once for each of their layers."""
        return len(self._active)

    def live_leases(self, now: float) -> int:
        """Return the number of leases in all swarms."""
        live = {key: self._swarms[key].turns.expire(now) for key in self._leasing}
        self._leasing = {key for key, leases in live.items() if leases}
        return sum(live.values())

    def call(self, now: float, hex_digits: str, peer: Peer, request: SwarmRequest) -> Reply:
        """Handle the call of a node, which is reached at `peer`, and return the answer."""
        self._sweep(now)
        key, node = (hex_digits, request.chunks), request.node
        swarm = self._swarm(key)
        for chunk in request.fetched:
            swarm.turns.fetched(chunk, node, now)
        swarm.turns.release(node, request.held_chunks)
        if request.stopped:
            return self._stop(key, node)
        if request.complete:
            swarm.turns.hold(Bitmap.full(request.chunks), now + SHORTEST_BELIEF)
            self._hear_seed(now, key, node, peer)
            return Reply([], [], self._jittered(SEEDS_INTERVAL))
        member = swarm.members.hear_node(node, peer, now)
        self._count(swarm)
        again = self._note_active(now, key, member, request)
        swarm.turns.hold(request.held_chunks, now + SHORTEST_BELIEF)
        leases = self._leases(now, key, member, request)
        if leases:
            again = self._jittered(HOLDERS_INTERVAL)
        swarm.turns.hold(request.held_chunks, now + _belief(again))
        return Reply(swarm.members.peers(node, request.peers, self._random), leases, again)

    def announce(self, now: float, node: str, peer: Peer, layers: Iterable[tuple[str, int]]) -> float:
        """Record that a node has `layers` (hex digest, number of chunks) completely.

        Return the seconds after which it should announce them again.
        """
        self._sweep(now)
        for key in layers:
            self._swarm(key)
            self._hear_seed(now, key, node, peer)
        return self._jittered(SEEDS_INTERVAL)

    def _stop(self, key: _Key, node: str) -> Reply:
        swarm = self._swarms[key]
        swarm.turns.release(node)
        swarm.members.remove(node)
        self._count(swarm)
        self._note_ended(key, node)
        return Reply([], [], self._jittered(SEEDS_INTERVAL))

    def _hear_seed(self, now: float, key: _Key, node: str, peer: Peer) -> None:
        swarm = self._swarms[key]
        swarm.turns.release(node)
        swarm.members.hear_seed(node, peer, now)
        swarm.seeded_until = now + 2 * SEEDS_INTERVAL
        self._count(swarm)
        self._note_ended(key, node)

    def _leases(self, now: float, key: _Key, member: Member, request: SwarmRequest) -> list[Lease]:
        """Lease the node its share of chunks, and return all its leases."""
        swarm = self._swarms[key]
        turns = swarm.turns
        turns.expire(now)
        held = turns.of(request.node)
        if not (now < swarm.seeded_until and now < member.joined + SEEDS_GRACE):
            share = self._share(key, request)
            free = SLOTS - self.live_leases(now)
            while len(held) < share and free > 0 and turns.lease(request.node, now) is not None:
                self._leasing.add(key)
                held = turns.of(request.node)
                free -= 1
        return [Lease(chunk=chunk, seconds=turn.expires - now) for chunk, turn in held.items()]

    def _share(self, key: _Key, request: SwarmRequest) -> int:
        """Return how many leases the node may hold now."""
        if (key, request.node) in self._spreading:
            nodes = len(self._spreading)
        elif any(swarm == key for swarm, _ in self._spreading):
            return 0
        else:
            nodes = len(self._wanting)
        return min(request.want, max(1, SLOTS // max(1, nodes)))

    def _note_active(self, now: float, key: _Key, member: Member, request: SwarmRequest) -> float:
        """Record the node as downloading. Return the seconds until it calls again."""
        wants = request.want > 0 and not request.held_chunks.is_full
        self._active[key, request.node] = now
        new = wants and now < member.joined + NEW_SECONDS
        shortest = NEW_INTERVAL if new else SHORTEST_INTERVAL
        again = self._jittered(max(shortest, len(self._active) / CALLS_PER_SECOND))
        self._active[key, request.node] = now + _belief(again)
        if not wants:
            self._wanting.pop((key, request.node), None)
            self._spreading.pop((key, request.node), None)
            return again
        self._wanting[key, request.node] = now + _belief(again)
        if request.unspread <= UNSPREAD_SHARES * max(1, SLOTS // len(self._wanting)):
            self._spreading[key, request.node] = now + _belief(again)
        else:
            self._spreading.pop((key, request.node), None)
        return again

    def _note_ended(self, key: _Key, node: str) -> None:
        self._active.pop((key, node), None)
        self._wanting.pop((key, node), None)
        self._spreading.pop((key, node), None)

    def _jittered(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.8, 1.2)

    def _swarm(self, key: _Key) -> _Swarm:
        """Return the swarm; create it if necessary, evicting another one."""
        if (swarm := self._swarms.get(key)) is not None:
            self._swarms.move_to_end(key)
            return swarm
        hex_digits, chunks = key
        sizes = self._sizes.setdefault(hex_digits, [])
        if len(sizes) >= MAX_SIZES:
            self._drop(min(((hex_digits, size) for size in sizes), key=lambda one: self._swarms[one].counted))
        elif len(self._swarms) >= self._max_swarms:
            self._drop(self._oldest())
        self._sizes.setdefault(hex_digits, []).append(chunks)
        swarm = self._swarms[key] = _Swarm(Turns(chunks))
        return swarm

    def _count(self, swarm: _Swarm) -> None:
        """Update the sum of members after a change of `swarm`, the most recently called one."""
        self._members += len(swarm.members) - swarm.counted
        swarm.counted = len(swarm.members)
        while self._members > self._max_members and len(self._swarms) > 1:
            self._drop(self._oldest(but=next(reversed(self._swarms))))

    def _oldest(self, but: _Key | None = None) -> _Key:
        """Return the least recently called swarm, if possible one without leases."""
        idle = (key for key in self._swarms if key not in self._leasing and key != but)
        return next(idle, next(iter(self._swarms)))

    def _drop(self, key: _Key) -> None:
        self._members -= self._swarms.pop(key).counted
        self._leasing.discard(key)
        sizes = self._sizes[key[0]]
        sizes.remove(key[1])
        if not sizes:
            del self._sizes[key[0]]

    def _sweep(self, now: float) -> None:
        """Remove silent nodes, once per second."""
        if now < self._swept_at + _SWEEP_EVERY:
            return
        self._swept_at = now
        self._active = {node: until for node, until in self._active.items() if until > now}
        self._wanting = {node: until for node, until in self._wanting.items() if until > now}
        self._spreading = {node: until for node, until in self._spreading.items() if until > now}
        for key, swarm in list(self._swarms.items()):
            swarm.members.forget_silent(now)
            self._members += len(swarm.members) - swarm.counted
            swarm.counted = len(swarm.members)
            if not swarm.counted:
                self._drop(key)


def _belief(interval: float) -> float:
    """Return for how many seconds the chunks of a node count as held that calls every `interval` seconds."""
    return max(SHORTEST_BELIEF, 2 * interval)
