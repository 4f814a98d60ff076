"""The lease table under any sequence of calls: leases never overlap, limits hold, every chunk is leased."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from core.swarm.bitmap import Bitmap
from core.swarm.lease_table import LEASE_SLOTS, LeaseTable, Reply
from core.swarm.messages import MAX_PEERS, Peer, SwarmRequest

LAYERS = ("a" * 64, "b" * 64)
NODES = st.integers(0, 5)
CHUNKS = 30
MAX_MEMBERS = 12
"""As many as nodes and layers: a chunk of a forgotten swarm may be leased twice."""
CHUNK_SETS = st.sets(st.integers(0, CHUNKS - 1))


def call(table: LeaseTable, now: float, layer: str, node: int, held: set[int], **fields: object) -> Reply:
    request = SwarmRequest.model_validate(
        {
            "node": f"{node:032x}",
            "port": 6881 + node,
            "chunks": CHUNKS,
            "held": Bitmap.of(CHUNKS, held).to_base64(),
            **fields,
        }
    )
    return table.call(now, layer, Peer(ip="10.0.0.1", port=6881 + node), request)


class Calls(RuleBasedStateMachine):
    """Any calls of a few nodes for two layers. Tracks the live leases, as nodes do."""

    def __init__(self) -> None:
        super().__init__()
        self.table = LeaseTable(Random(0), max_members=MAX_MEMBERS)
        self.now = 0.0
        self.active: dict[tuple[str, int], tuple[int, float]] = {}
        """Holder and expiry of each lease, by layer and chunk."""

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        layer=st.sampled_from(LAYERS),
        node=NODES,
        held=CHUNK_SETS,
        finished=st.booleans(),
        want=st.integers(0, 20),
        unspread=st.sampled_from((0, CHUNKS)),
    )
    def a_node_calls(
        self, layer: str, node: int, held: set[int], finished: bool, want: int, unspread: int
    ) -> None:
        mine = {chunk for (of, chunk), (holder, _) in self.active.items() if (of, holder) == (layer, node)}
        fetched = mine if finished else set()
        fields = {"fetched": sorted(fetched), "want": want, "unspread": unspread}
        reply = call(self.table, self.now, layer, node, held | fetched, **fields)
        for chunk in mine:
            del self.active[layer, chunk]
        for lease in reply.leases:
            holder, until = self.active.get((layer, lease.chunk), (node, 0.0))
            assert until <= self.now, f"chunk {lease.chunk} is leased to {holder} until {until}"
            assert lease.chunk not in held | fetched
            assert lease.seconds > 0
            self.active[layer, lease.chunk] = node, self.now + lease.seconds
        assert len(reply.peers) <= MAX_PEERS
        assert reply.interval > 0

    @rule(layer=st.sampled_from(LAYERS), node=NODES, stopped=st.booleans())
    def a_node_ends(self, layer: str, node: int, stopped: bool) -> None:
        held = set() if stopped else set(range(CHUNKS))
        call(self.table, self.now, layer, node, held, stopped=stopped, complete=not stopped)
        self.active = {
            key: lease for key, lease in self.active.items() if key[0] != layer or lease[0] != node
        }

    @rule(node=NODES)
    def a_node_announces(self, node: int) -> None:
        peer = Peer(ip="10.0.0.1", port=6881 + node)
        self.table.announce_seeds(self.now, f"{node:032x}", peer, [(layer, CHUNKS) for layer in LAYERS])
        self.active = {key: lease for key, lease in self.active.items() if lease[0] != node}

    @invariant()
    def no_more_leases_than_slots(self) -> None:
        assert self.table.active_leases(self.now) <= LEASE_SLOTS

    @invariant()
    def no_more_members_than_the_bound(self) -> None:
        assert self.table.members <= MAX_MEMBERS


TestCalls = Calls.TestCase
TestCalls.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_every_chunk_is_leased_although_holders_vanish(data: st.DataObject) -> None:
    """Nodes take leases and vanish; a new node comes every second until one of them has fetched everything."""
    table = LeaseTable(Random(0))
    now = 0.0
    fetched: set[int] = set()
    for node in range(1000):
        now += 1.0
        vanishes = node < 100 and data.draw(st.booleans(), label=f"node {node} vanishes")
        reply = call(table, now, LAYERS[0], node, set())
        if not vanishes:
            mine = {lease.chunk for lease in reply.leases}
            fetched |= mine
            call(table, now, LAYERS[0], node, mine, fetched=sorted(mine), want=0)
        if len(fetched) == CHUNKS:
            return
    raise AssertionError(f"never leased to a node that fetches: {set(range(CHUNKS)) - fetched}")
