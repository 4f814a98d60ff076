"""The lease table: which node fetches which chunk from the origin, and which peers each node connects to.

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
from core.swarm.layer_leases import LayerLeases
from core.swarm.members import Member, Members
from core.swarm.messages import SEEDS_INTERVAL, Lease, Peer, SwarmRequest

LEASE_SLOTS = 16
"""Leases at a time. Fewer leave the origin idle while nodes request the next chunk (4: twice the time)."""
CALLS_PER_SECOND = 140.0
"""Calls per second of nodes without a lease. With those of lease holders it is about 200."""
MIN_INTERVAL = 1.0
NEW_NODE_INTERVAL, NEW_NODE_SECONDS = 0.4, 5.0
"""The minimum interval of a node that lacks chunks which no peer of it has, while it is new: it still looks
for peers. Later such calls were no use, and took 5 % of a line of 6 Mbit/s.
"""
LEASE_HOLDER_INTERVAL = 1.5
"""The interval of a node with leases; it also calls when it has fetched a chunk."""
MIN_REPORT_TTL = 5.0
"""What a node reports, as the chunks that it holds, is valid for two of its intervals, at least for this many
seconds: it may be busy.
"""
MAX_UNSPREAD_QUOTAS = 2
"""A node has a slow uplink if it holds more unspread chunks (fetched, but no peer has them yet) than this
many quotas of leases. It gets no lease while others of its swarm request some: these would wait for its
chunks.
"""
SEEDS_GRACE = 3.0
"""Seconds in which a node that joins gets no lease if the swarm has seeds. They call so rarely that they may
have left long ago: a node that does not get the layer from them in this time gets leases anyway.
"""
MAX_SWARMS = 10_000
MAX_MEMBERS = 200_000
MAX_CHUNK_COUNTS = 4
"""How many different numbers of chunks nodes may state for one layer. Each has a separate swarm."""
_EXPIRY_INTERVAL = 1.0

_Key = tuple[str, int]
"""A swarm: the layer's hex digest and its number of chunks."""


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to a node: peers, all its leases, and the seconds until it calls again."""

    peers: list[Peer]
    leases: list[Lease]
    interval: float


@dataclass(slots=True)
class _Swarm:
    leases: LayerLeases
    members: Members = field(default_factory=Members)
    counted_members: int = 0
    """Its share of the sum of members over all swarms."""
    seeded_until: float = float("-inf")
    """When the last report of a seed expires."""


class LeaseTable:
    """The leases and members of all swarms of one origin."""

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
        self._chunk_counts: dict[str, list[int]] = {}
        """The stated numbers of chunks of each layer."""
        self._with_leases: set[_Key] = set()
        """The swarms that may have active leases."""
        self._members = 0
        self._downloaders: dict[tuple[_Key, str], float] = {}
        """Incomplete nodes, and when the last report of each expires."""
        self._requesting: dict[tuple[_Key, str], float] = {}
        """Those of them that request leases."""
        self._spreading: dict[tuple[_Key, str], float] = {}
        """Those that request leases and pass on their chunks."""
        self._last_expiry = float("-inf")

    @property
    def swarms(self) -> int:
        """The number of swarms."""
        return len(self._swarms)

    @property
    def members(self) -> int:
        """The number of nodes, counted once for each of their layers."""
        return self._members

    @property
    def downloaders(self) -> int:
        """The number of incomplete nodes, counted once for each of their layers."""
        return len(self._downloaders)

    def active_leases(self, now: float) -> int:
        """Return the number of active leases in all swarms."""
        active = {key: self._swarms[key].leases.expire(now) for key in self._with_leases}
        self._with_leases = {key for key, leases in active.items() if leases}
        return sum(active.values())

    def call(self, now: float, hex_digits: str, peer: Peer, request: SwarmRequest) -> Reply:
        """Record what a node reports about a layer, and return peers and leases for it.

        `peer` is the address at which others connect to the node.
        """
        self._expire(now)
        key, node = (hex_digits, request.chunks), request.node
        swarm = self._find_or_create(key)
        for chunk in request.fetched:
            swarm.leases.record_fetched(chunk, node, now)
        swarm.leases.release(node, request.held_chunks)
        if request.stopped:
            return self._remove_node(key, node)
        if request.complete:
            swarm.leases.record_held(Bitmap.full(request.chunks), now + MIN_REPORT_TTL)
            self._record_seed(now, key, node, peer)
            return Reply([], [], self._jittered(SEEDS_INTERVAL))
        member = swarm.members.record_downloader(node, peer, now)
        self._count_members(swarm)
        interval = self._record_downloader(now, key, member, request)
        # Before leases are granted; for longer once the interval is known.
        swarm.leases.record_held(request.held_chunks, now + MIN_REPORT_TTL)
        leases = self._grant_leases(now, key, member, request)
        if leases:
            interval = self._jittered(LEASE_HOLDER_INTERVAL)
        swarm.leases.record_held(request.held_chunks, now + _report_ttl(interval))
        peers = swarm.members.choose_peers(request.peers, self._random, exclude=node)
        return Reply(peers, leases, interval)

    def announce_seeds(self, now: float, node: str, peer: Peer, layers: Iterable[tuple[str, int]]) -> float:
        """Record that a node has `layers` (hex digest, number of chunks) completely.

        Return the seconds after which it should announce them again.
        """
        self._expire(now)
        for key in layers:
            self._find_or_create(key)
            self._record_seed(now, key, node, peer)
        return self._jittered(SEEDS_INTERVAL)

    def _remove_node(self, key: _Key, node: str) -> Reply:
        swarm = self._swarms[key]
        swarm.leases.release(node)
        swarm.members.remove(node)
        self._count_members(swarm)
        self._remove_downloader(key, node)
        return Reply([], [], self._jittered(SEEDS_INTERVAL))

    def _record_seed(self, now: float, key: _Key, node: str, peer: Peer) -> None:
        swarm = self._swarms[key]
        swarm.leases.release(node)
        swarm.members.record_seed(node, peer, now)
        swarm.seeded_until = now + 2 * SEEDS_INTERVAL
        self._count_members(swarm)
        self._remove_downloader(key, node)

    def _record_downloader(self, now: float, key: _Key, member: Member, request: SwarmRequest) -> float:
        """Record that the node downloads, and whether it requests leases. Return its interval."""
        requesting = request.want > 0 and not request.held_chunks.is_full
        is_new = requesting and now < member.joined + NEW_NODE_SECONDS
        min_interval = NEW_NODE_INTERVAL if is_new else MIN_INTERVAL
        self._remove_downloader(key, request.node)
        interval = self._jittered(max(min_interval, (len(self._downloaders) + 1) / CALLS_PER_SECOND))
        expires = now + _report_ttl(interval)
        self._downloaders[key, request.node] = expires
        if requesting:
            self._requesting[key, request.node] = expires
            if request.unspread <= MAX_UNSPREAD_QUOTAS * _quota(len(self._requesting)):
                self._spreading[key, request.node] = expires
        return interval

    def _remove_downloader(self, key: _Key, node: str) -> None:
        for downloaders in (self._downloaders, self._requesting, self._spreading):
            downloaders.pop((key, node), None)

    def _grant_leases(self, now: float, key: _Key, member: Member, request: SwarmRequest) -> list[Lease]:
        """Grant the node leases up to its quota, and return all its leases."""
        swarm, node = self._swarms[key], request.node
        swarm.leases.expire(now)
        leases = swarm.leases.of_node(node)
        if not (now < swarm.seeded_until and now < member.joined + SEEDS_GRACE):
            limit = min(request.want, self._node_quota(key, node))
            free = LEASE_SLOTS - self.active_leases(now)
            while len(leases) < limit and free > 0 and swarm.leases.grant(node, now) is not None:
                self._with_leases.add(key)
                leases = swarm.leases.of_node(node)
                free -= 1
        return [Lease(chunk=chunk, seconds=lease.expires - now) for chunk, lease in leases.items()]

    def _node_quota(self, key: _Key, node: str) -> int:
        """Return how many leases the node may have now."""
        if (key, node) in self._spreading:
            return _quota(len(self._spreading))
        if any(swarm == key for swarm, _ in self._spreading):
            return 0
        return _quota(len(self._requesting))

    def _jittered(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.8, 1.2)

    def _find_or_create(self, key: _Key) -> _Swarm:
        """Return the swarm; create it if necessary, removing another one if there are too many."""
        if (swarm := self._swarms.get(key)) is not None:
            self._swarms.move_to_end(key)
            return swarm
        hex_digits, chunks = key
        counts = self._chunk_counts.get(hex_digits, ())
        if len(counts) >= MAX_CHUNK_COUNTS:
            smallest = min(counts, key=lambda count: self._swarms[hex_digits, count].counted_members)
            self._remove_swarm((hex_digits, smallest))
        elif len(self._swarms) >= self._max_swarms:
            self._remove_swarm(self._least_recent())
        self._chunk_counts.setdefault(hex_digits, []).append(chunks)
        swarm = self._swarms[key] = _Swarm(LayerLeases(chunks))
        return swarm

    def _count_members(self, swarm: _Swarm) -> None:
        """Update the sum of members after a change of `swarm`, the most recently called one."""
        self._recount(swarm)
        while self._members > self._max_members and len(self._swarms) > 1:
            self._remove_swarm(self._least_recent(exclude=next(reversed(self._swarms))))

    def _recount(self, swarm: _Swarm) -> None:
        self._members += len(swarm.members) - swarm.counted_members
        swarm.counted_members = len(swarm.members)

    def _least_recent(self, exclude: _Key | None = None) -> _Key:
        """Return the least recently called swarm, if possible one without leases."""
        idle = (key for key in self._swarms if key not in self._with_leases and key != exclude)
        return next(idle, next(iter(self._swarms)))

    def _remove_swarm(self, key: _Key) -> None:
        self._members -= self._swarms.pop(key).counted_members
        self._with_leases.discard(key)
        hex_digits, chunks = key
        counts = self._chunk_counts[hex_digits]
        counts.remove(chunks)
        if not counts:
            del self._chunk_counts[hex_digits]

    def _expire(self, now: float) -> None:
        """Remove nodes that no longer call, and swarms without members, once per second."""
        if now < self._last_expiry + _EXPIRY_INTERVAL:
            return
        self._last_expiry = now
        self._downloaders = _unexpired(self._downloaders, now)
        self._requesting = _unexpired(self._requesting, now)
        self._spreading = _unexpired(self._spreading, now)
        for key, swarm in list(self._swarms.items()):
            swarm.members.remove_expired(now)
            self._recount(swarm)
            if not swarm.counted_members:
                self._remove_swarm(key)


def _unexpired(expiries: dict[tuple[_Key, str], float], now: float) -> dict[tuple[_Key, str], float]:
    return {node: expires for node, expires in expiries.items() if expires > now}


def _quota(nodes: int) -> int:
    """Return how many leases each of `nodes` nodes may have; at least one."""
    return max(1, LEASE_SLOTS // max(1, nodes))


def _report_ttl(interval: float) -> float:
    """Return for how many seconds a report is valid of a node that calls every `interval` seconds."""
    return max(MIN_REPORT_TTL, 2 * interval)
