"""A swarm of simulated nodes that call the real lease table, a step at a time.

A step is the time in which a link carries one chunk. The model: every node and the origin have links of the
same speed, full duplex. In a step a node takes in one chunk and sends one, to nodes that it is connected to;
the origin's line is shared evenly by the chunks that are being fetched from it. A node connects to the peers
that the service lists while it has fewer than 25 connections, and accepts up to 50. It calls the service as
the mirror does: with the chunks that it and its peers have, after each interval, and at once when it has
fetched a chunk. About a third of what it takes from peers is its lowest missing chunk, the rest its rarest.

The model leaves out lost packets, and the registry as a fallback for stalled nodes. Nodes pass on whole
chunks, while real ones pass on pieces, a quarter as long: so the ends of small layers take longer here.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import numpy as np
from numpy.typing import NDArray

from core.swarm.lease_table import LeaseTable
from core.swarm.messages import MAX_OPENED, Lease, Peer, SwarmRequest

CONNECTIONS = 2 * MAX_OPENED
LOWEST_FIRST = 0.3
SLOW_STEPS = 16
_ROUNDS = 10
"""How often, in a step, a node with spare capacity looks for a peer with a chunk for it and spare capacity.
"""

Bits = NDArray[np.bool_]


@dataclass
class Outcome:
    """The results of a simulation. Times are in units of the time the link takes for the layer."""

    last_node: float
    median_node: float
    origin_layers: float
    calls_per_second: float
    """The most in any second after the nodes have joined."""
    in_order: float
    """The part of the layer that nodes have in order when they have 55 % of it."""


@dataclass
class Nodes:
    """The nodes' state, in arrays by the node's number."""

    count: int
    chunks: int
    have: Bits = field(init=False)
    peers: NDArray[np.int32] = field(init=False)
    """Each node's connections; a row is filled from the left."""
    connections: NDArray[np.int32] = field(init=False)
    joined: Bits = field(init=False)
    alive: Bits = field(init=False)

    def __post_init__(self) -> None:
        self.have = np.zeros((self.count, self.chunks), dtype=bool)
        self.peers = np.zeros((self.count, CONNECTIONS), dtype=np.int32)
        self.connections = np.zeros(self.count, dtype=np.int32)
        self.joined = np.zeros(self.count, dtype=bool)
        self.alive = np.ones(self.count, dtype=bool)

    def connect(self, node: int, other: int) -> None:
        """Connect a node that has few connections to another with free ones."""
        degrees = self.connections
        if (
            node == other
            or degrees[node] >= MAX_OPENED
            or degrees[other] >= CONNECTIONS
            or other in self.peers[node, : degrees[node]]
        ):
            return
        self.peers[node, degrees[node]] = other
        self.peers[other, degrees[other]] = node
        degrees[node] += 1
        degrees[other] += 1

    def held(self, node: int) -> Bits:
        """Return the chunks that the node or one of its peers has."""
        near = self.peers[node, : self.connections[node]]
        near = near[self.alive[near]]
        held: Bits = self.have[node] | self.have[near].any(axis=0)
        return held


class Simulation:
    """Nodes that download one layer, with leases of one or several services.

    From a call to the first byte of a leased chunk it takes `latency` seconds, rounded up to whole steps.

    With several `services`, each call goes to one of them at random. All of them restart at step
    `restart_at`; at step `kill_holders_at` the nodes that are fetching from the origin die. The first
    `slow_uploads` nodes send a chunk in one of SLOW_STEPS steps only.
    """

    def __init__(
        self,
        nodes: int,
        chunks: int = 256,
        *,
        step_seconds: float = 0.021,
        latency: float = 0.01,
        join_steps: Callable[[int], int] = lambda node: 0,
        services: int = 1,
        restart_at: int | None = None,
        kill_holders_at: int | None = None,
        slow_uploads: int = 0,
        seed: int = 1,
    ) -> None:
        self.nodes = Nodes(nodes, chunks)
        self.step_seconds = step_seconds
        self._tables = [LeaseTable(Random(seed + number)) for number in range(services)]
        self._numpy = np.random.default_rng(seed)
        self._random = Random(seed)
        self._join_at = np.array([join_steps(node) for node in range(nodes)])
        self._restart_at = restart_at
        self._kill_holders_at = kill_holders_at
        self._slow = np.arange(nodes) < slow_uploads
        self._seed = seed
        self._call_at = np.array([step * step_seconds for step in self._join_at], dtype=float)
        self._latency_steps = math.ceil(latency / step_seconds)
        self._requested: dict[tuple[int, int], int] = {}
        """The fetches about to begin: node, chunk, and the step in which that happens."""
        self._fetching: dict[tuple[int, int], float] = {}
        """The fetches from the origin: node, chunk, and the missing part of the chunk."""
        self._fetched: list[list[int]] = [[] for _ in range(nodes)]
        self._unspread: list[list[int]] = [[] for _ in range(nodes)]
        self._done_at = np.full(nodes, -1)
        self._sent = 0.0
        self._calls: dict[int, int] = {}
        self._in_order: list[float] = []
        self._measured = np.zeros(nodes, dtype=bool)
        self.step = 0

    def run(self, max_steps: int = 20_000) -> Outcome:
        """Run until every live node is complete."""
        while (unfinished := self.nodes.alive & (self._done_at < 0)).any():
            if self.step >= max_steps:
                raise RuntimeError(f"{int(unfinished.sum())} nodes are stuck after {self.step} steps")
            self._run_step()
        return self._outcome()

    def _run_step(self) -> None:
        nodes, now = self.nodes, self.step * self.step_seconds
        nodes.joined |= self._join_at <= self.step
        if self.step == self._restart_at:
            self._tables = [LeaseTable(Random(self._seed - 1 - at)) for at in range(len(self._tables))]
        if self.step == self._kill_holders_at:
            for node in {node for node, _ in (*self._fetching, *self._requested)}:
                self._kill(node)
        for node in np.flatnonzero(nodes.joined & nodes.alive & (self._call_at <= now)):
            self._call(int(node), now)
        taken = self._send_from_origin()
        self._send_from_peers(taken)
        self.step += 1
        self._note_progress()

    def _call(self, node: int, now: float) -> None:
        nodes = self.nodes
        complete = bool(nodes.have[node].all())
        if complete and self._done_at[node] >= 0 and self._call_at[node] == np.inf:
            return
        fetched, self._fetched[node] = self._fetched[node], []
        request = SwarmRequest(
            node=f"{node:032x}",
            port=6881,
            chunks=nodes.chunks,
            held=base64.b64encode(np.packbits(nodes.held(node)).tobytes()).decode(),
            fetched=fetched,
            complete=complete,
            unspread=self._unspread_chunks(node),
        )
        table = self._random.choice(self._tables)
        reply = table.call(now, "a" * 64, Peer(ip=_ip(node), port=6881), request)
        self._calls[int(now)] = self._calls.get(int(now), 0) + 1
        for peer in reply.peers:
            other = _number(peer.ip)
            if nodes.alive[other]:
                nodes.connect(node, other)
        self._take(node, reply.leases)
        self._call_at[node] = np.inf if complete else now + reply.interval

    def _take(self, node: int, leases: list[Lease]) -> None:
        for lease in leases:
            if not self.nodes.have[node, lease.chunk] and (node, lease.chunk) not in self._fetching:
                self._requested.setdefault((node, lease.chunk), self.step + self._latency_steps)

    def _unspread_chunks(self, node: int) -> int:
        """Return how many chunks that the node fetched none of its peers has."""
        if self._unspread[node]:
            near = self.nodes.peers[node, : self.nodes.connections[node]]
            spread = self.nodes.have[near].any(axis=0)
            self._unspread[node] = [chunk for chunk in self._unspread[node] if not spread[chunk]]
        return len(self._unspread[node])

    def _send_from_origin(self) -> Bits:
        """Divide the origin's capacity of one chunk among the current fetches.

        Return the nodes whose links are busy in this step, by a chunk that is now complete.
        """
        for key in [key for key, step in self._requested.items() if step <= self.step]:
            del self._requested[key]
            self._fetching.setdefault(key, 1.0)
        taken = np.zeros(self.nodes.count, dtype=bool)
        room = 1.0
        while room > 1e-9 and self._fetching:
            share = min(room / len(self._fetching), min(self._fetching.values()))
            room -= share * len(self._fetching)
            self._sent += share * len(self._fetching)
            for (node, chunk), missing in list(self._fetching.items()):
                if missing - share > 1e-9:
                    self._fetching[node, chunk] = missing - share
                    continue
                del self._fetching[node, chunk]
                taken[node] = True
                self.nodes.have[node, chunk] = True
                self._fetched[node].append(chunk)
                self._unspread[node].append(chunk)
                self._call_at[node] = 0.0
        return taken

    def _send_from_peers(self, taken: Bits) -> None:
        """Let nodes send each other one chunk each."""
        nodes = self.nodes
        have = nodes.have.copy()
        """The state at the beginning of the step: chunks received now are sent on in the next."""
        can_send = nodes.joined & nodes.alive & have.any(axis=1)
        if self.step % SLOW_STEPS:
            can_send &= ~self._slow
        can_take = nodes.joined & nodes.alive & (self._done_at < 0) & ~taken & (nodes.connections > 0)
        rarity = have.sum(axis=0, dtype=np.int32)
        for _ in range(_ROUNDS):
            takers = np.flatnonzero(can_take)
            if not len(takers) or not can_send.any():
                return
            takers = self._numpy.permutation(takers)
            column = (self._numpy.random(len(takers)) * nodes.connections[takers]).astype(np.int32)
            senders = nodes.peers[takers, column]
            free = can_send[senders]
            takers, senders = takers[free], senders[free]
            wanted = have[senders] & ~nodes.have[takers]
            useful = wanted.any(axis=1)
            takers, senders, wanted = takers[useful], senders[useful], wanted[useful]
            senders, first = np.unique(senders, return_index=True)
            takers, wanted = takers[first], wanted[first]
            if not len(takers):
                continue
            nodes.have[takers, self._choose(wanted, rarity)] = True
            can_take[takers] = False
            can_send[senders] = False

    def _choose(self, wanted: Bits, rarity: NDArray[np.int32]) -> NDArray[np.intp]:
        """Return for each row one of the wanted chunks: the lowest, or one of the rarest."""
        lowest = wanted.argmax(axis=1)
        noise = self._numpy.random(wanted.shape, dtype=np.float32)
        rank = np.where(wanted, rarity[None, :] * np.float32(1.0) + noise, np.float32(np.inf))
        rarest = rank.argmin(axis=1)
        return np.where(self._numpy.random(len(wanted)) < LOWEST_FIRST, lowest, rarest)

    def _note_progress(self) -> None:
        nodes = self.nodes
        counts = nodes.have.sum(axis=1)
        done = (counts == nodes.chunks) & (self._done_at < 0)
        self._done_at[done] = self.step
        for node in np.flatnonzero((counts >= 0.55 * nodes.chunks) & ~self._measured):
            row = nodes.have[node]
            self._in_order.append(float(nodes.chunks if row.all() else row.argmin()) / nodes.chunks)
            self._measured[node] = True

    def _kill(self, node: int) -> None:
        self.nodes.alive[node] = False
        self._fetching = {key: left for key, left in self._fetching.items() if key[0] != node}
        self._requested = {key: step for key, step in self._requested.items() if key[0] != node}

    def _outcome(self) -> Outcome:
        alive = self.nodes.alive
        took = (self._done_at - self._join_at)[alive] / self.nodes.chunks
        later = [calls for second, calls in self._calls.items() if second > 1]
        return Outcome(
            last_node=float(took.max()),
            median_node=float(np.median(took)),
            origin_layers=self._sent / self.nodes.chunks,
            calls_per_second=float(max(later, default=0)),
            in_order=float(np.median(self._in_order)) if self._in_order else 1.0,
        )


def _ip(node: int) -> str:
    return f"10.{node >> 16}.{node >> 8 & 255}.{node & 255}"


def _number(ip: str) -> int:
    _, a, b, c = ip.split(".")
    return int(a) << 16 | int(b) << 8 | int(c)
