"""The lease table: leases, peers, and when nodes call again."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from core.swarm.bitmap import Bitmap
from core.swarm.layer_leases import MIN_LEASE_SECONDS
from core.swarm.lease_table import (
    LEASE_SLOTS,
    MAX_CHUNK_COUNTS,
    MIN_REPORT_TTL,
    SEEDS_GRACE,
    LeaseTable,
    Reply,
)
from core.swarm.members import MEMBER_TTL
from core.swarm.messages import MAX_PEERS, SEEDS_INTERVAL, Peer, SwarmRequest

LAYER = "a" * 64
OTHER_LAYER = "b" * 64
CHUNKS = 40


class Swarm:
    """A lease table, and numbered nodes that call it at times that the test sets."""

    def __init__(self, layer: str = LAYER, chunks: int = CHUNKS, table: LeaseTable | None = None) -> None:
        self.table = table or LeaseTable(Random(1))
        self.layer = layer
        self.chunks = chunks
        self.now = 1000.0

    def call(
        self,
        number: int,
        held: Iterable[int] = (),
        fetched: Iterable[int] = (),
        *,
        complete: bool = False,
        stopped: bool = False,
        want: int = 16,
        unspread: int = 0,
    ) -> Reply:
        fetched = list(fetched)
        request = SwarmRequest(
            node=f"{number:032x}",
            port=6881,
            chunks=self.chunks,
            held=Bitmap.of(self.chunks, {*held, *fetched}).to_base64(),
            fetched=fetched,
            complete=complete,
            stopped=stopped,
            want=want,
            unspread=unspread,
        )
        return self.table.call(self.now, self.layer, peer(number), request)

    def announce(self, number: int) -> float:
        return self.table.announce_seeds(
            self.now, f"{number:032x}", peer(number), [(self.layer, self.chunks)]
        )


def peer(number: int) -> Peer:
    return Peer(ip=f"10.0.{number >> 8}.{number & 255}", port=6881)


def leased(reply: Reply) -> list[int]:
    return [lease.chunk for lease in reply.leases]


def test_a_lone_node_gets_leases_of_the_lowest_chunks_for_all_slots() -> None:
    assert leased(Swarm().call(1)) == list(range(LEASE_SLOTS))


def test_a_node_gets_no_more_leases_than_it_wants() -> None:
    swarm = Swarm()

    assert leased(swarm.call(1, want=3)) == [0, 1, 2]
    assert leased(swarm.call(1, want=0)) == [0, 1, 2], "it may finish its leases"


def test_nodes_share_the_slots() -> None:
    swarm = Swarm()
    for number in range(1, 5):
        swarm.call(number, want=1)
    swarm.now += 0.1

    assert len(swarm.call(1).leases) == LEASE_SLOTS // 4


def test_many_nodes_hold_one_lease_each_of_different_chunks() -> None:
    swarm = Swarm(chunks=100)
    swarm.call(0, want=1)
    for number in range(1, 40):
        swarm.call(number, want=1)
    swarm.now += 0.1
    replies = [swarm.call(number) for number in range(40)]
    chunks = [chunk for reply in replies for chunk in leased(reply)]

    assert sorted(chunks) == list(range(LEASE_SLOTS))
    assert all(len(reply.leases) <= 1 for reply in replies)


def test_a_node_that_passes_on_nothing_gets_no_lease_while_others_want_some() -> None:
    swarm = Swarm(chunks=100)
    swarm.call(2, want=0)
    assert leased(swarm.call(1, fetched=range(50), want=1, unspread=50)), "no other wants any"
    swarm.call(2, want=1)
    swarm.now += 1

    assert len(leased(swarm.call(1, range(50), unspread=50))) == 1, "what it holds it may finish"
    assert leased(swarm.call(1, range(51), fetched=[50], unspread=51)) == []
    assert len(leased(swarm.call(2, range(51)))) == LEASE_SLOTS


@pytest.mark.parametrize("unspread", [0, 100])
def test_nodes_that_are_all_alike_get_leases(unspread: int) -> None:
    swarm = Swarm(chunks=100)
    for node in (1, 2):
        swarm.call(node, want=1, unspread=unspread)
    swarm.now += 0.1

    assert [len(leased(swarm.call(node, unspread=unspread))) for node in (1, 2)] == [
        LEASE_SLOTS // 2,
        LEASE_SLOTS // 2,
    ]


def test_a_slow_node_gets_leases_again_when_the_others_are_complete_or_silent() -> None:
    swarm = Swarm(chunks=100)
    swarm.call(2, want=1)
    swarm.call(3, want=1)
    assert leased(swarm.call(1, unspread=50)) == []
    swarm.call(2, complete=True)
    swarm.now += 2 * MIN_REPORT_TTL

    assert leased(swarm.call(1, unspread=50))


def test_a_node_alone_in_its_swarm_gets_leases_beside_other_swarms() -> None:
    swarm = Swarm(chunks=100)
    other = Swarm(OTHER_LAYER, table=swarm.table)
    other.call(2, want=1)

    assert leased(swarm.call(1, fetched=range(50), unspread=50)), "it has no peer to pass chunks to"


def test_slots_are_shared_by_all_layers() -> None:
    swarm = Swarm()
    other = Swarm(OTHER_LAYER, table=swarm.table)
    swarm.call(1)

    assert leased(other.call(2)) == []
    assert swarm.table.active_leases(swarm.now) == LEASE_SLOTS


def test_a_fetched_chunk_frees_a_slot() -> None:
    swarm = Swarm()
    swarm.call(1, want=2)
    swarm.now += 1

    assert leased(swarm.call(1, fetched=[0], want=2)) == [1, 2]


def test_the_answer_repeats_the_leases_with_their_remaining_time() -> None:
    swarm = Swarm()
    swarm.call(1, want=1)
    swarm.now += 2
    [lease] = swarm.call(1, want=1).leases

    assert (lease.chunk, lease.seconds) == (0, MIN_LEASE_SECONDS - 2)


def test_a_chunk_that_came_from_a_peer_ends_its_lease() -> None:
    swarm = Swarm()
    swarm.call(1, want=1)

    assert leased(swarm.call(1, held=[0], want=1)) == [1]


def test_chunks_that_another_node_has_are_not_leased() -> None:
    swarm = Swarm()
    swarm.call(1, held=[0, 1, 5], want=0)

    assert leased(swarm.call(2, want=4)) == [2, 3, 4, 6]


def test_chunks_of_a_silent_node_are_leased_again() -> None:
    swarm = Swarm(chunks=2)
    interval = swarm.call(1, held=[0, 1], want=0).interval
    assert leased(swarm.call(2)) == []
    swarm.now += max(MIN_REPORT_TTL, 2 * interval) + 1

    assert leased(swarm.call(2)) == [0, 1]


def test_chunks_never_leased_come_before_those_whose_lease_expired() -> None:
    swarm = Swarm(chunks=4)
    swarm.call(1, want=2)
    swarm.now += MIN_LEASE_SECONDS

    assert leased(swarm.call(2, want=4)) == [2, 3, 0, 1]


def test_of_expired_leases_the_oldest_is_granted_first() -> None:
    swarm = Swarm(chunks=3)
    for number in (1, 2, 3):
        swarm.call(number, want=1)
        swarm.now += 1
    swarm.now += MIN_LEASE_SECONDS

    assert leased(swarm.call(4, want=1)) == [0]
    swarm.call(4, want=0, stopped=True)
    swarm.now += 1
    assert leased(swarm.call(5, want=2)) == [1, 2]


def test_a_lease_lasts_four_times_the_recent_duration_of_chunks() -> None:
    swarm = Swarm()
    [*_, first] = swarm.call(1, want=3).leases
    swarm.now += 4
    swarm.call(1, fetched=[0, 1], want=1)
    swarm.now += 0.5
    [lease] = swarm.call(1, fetched=[2], want=1).leases

    assert (first.seconds, lease.seconds) == (MIN_LEASE_SECONDS, 4 * 4)


def test_a_chunk_reported_twice_counts_once() -> None:
    swarm = Swarm()
    swarm.call(1, want=1)
    for _ in range(20):
        swarm.now += 1
        swarm.call(1, fetched=[0], want=0)
    [lease] = swarm.call(1, want=1).leases

    assert lease.seconds == MIN_LEASE_SECONDS


def test_leases_of_a_node_that_stops_are_free() -> None:
    swarm = Swarm()
    swarm.call(1)
    swarm.call(1, stopped=True)

    assert swarm.table.active_leases(swarm.now) == 0
    assert swarm.call(2).peers == []


def test_a_node_gets_all_peers_except_itself() -> None:
    swarm = Swarm()
    for number in (1, 2, 3):
        swarm.call(number)

    assert sorted(one.ip for one in swarm.call(2).peers) == ["10.0.0.1", "10.0.0.3"]


def test_at_most_fifty_peers_are_listed_complete_ones_first() -> None:
    swarm = Swarm()
    for number in range(100):
        swarm.call(number, want=0)
    for number in range(200, 230):
        swarm.call(number, range(CHUNKS), complete=True)
    peers = [one.ip for one in swarm.call(300).peers]

    assert len(set(peers)) == MAX_PEERS
    assert set(peers[:30]) == {f"10.0.0.{number}" for number in range(200, 230)}


def test_other_peers_are_chosen_at_random() -> None:
    swarm = Swarm()
    for number in range(200):
        swarm.call(number, want=0)
    listed = {one.ip for _ in range(20) for one in swarm.call(300).peers}

    assert len(listed) > 2 * MAX_PEERS


def test_nodes_silent_for_an_hour_are_not_listed() -> None:
    swarm = Swarm()
    swarm.call(1)
    swarm.announce(2)
    swarm.now += MEMBER_TTL - 1
    swarm.call(3)
    assert len(swarm.call(4).peers) == 3
    swarm.now += 1.5

    assert [one.ip for one in swarm.call(4).peers] == ["10.0.0.3"]


def test_a_node_that_joins_waits_for_the_seeds_for_a_moment() -> None:
    swarm = Swarm()
    swarm.announce(1)
    swarm.now += SEEDS_INTERVAL

    assert leased(swarm.call(2)) == []
    swarm.now += SEEDS_GRACE
    assert leased(swarm.call(2)) == list(range(LEASE_SLOTS)), "the seed may have left"


def test_a_node_that_has_just_become_complete_counts_as_having_everything() -> None:
    swarm = Swarm()
    swarm.call(2)
    swarm.call(2, range(CHUNKS), complete=True)
    swarm.call(1)
    swarm.now += SEEDS_GRACE + 0.5
    assert leased(swarm.call(1)) == []
    swarm.now += MIN_REPORT_TTL

    assert len(swarm.call(1).leases) == LEASE_SLOTS


@pytest.mark.parametrize(("nodes", "longest"), [(1, 2), (10, 2), (320, 3), (10_000, 90)])
def test_the_more_nodes_the_less_often_each_calls(nodes: int, longest: float) -> None:
    swarm = Swarm()
    for number in range(LEASE_SLOTS, LEASE_SLOTS + nodes):
        swarm.call(number, want=1)
    waits = [swarm.call(number, want=1).interval for number in range(LEASE_SLOTS, LEASE_SLOTS + nodes)]
    without_lease = waits[LEASE_SLOTS:] or waits

    assert all(nodes / 200 <= wait <= longest for wait in without_lease)
    assert all(wait <= 2 for wait in waits[:LEASE_SLOTS]), "those with a lease call first"


def test_a_complete_node_calls_less_often() -> None:
    assert Swarm().call(1, range(CHUNKS)).interval >= 0.8


def test_silent_nodes_do_not_slow_down_the_others() -> None:
    swarm = Swarm()
    for number in range(10_000):
        swarm.call(number)
    assert swarm.table.downloaders == 10_000
    swarm.now += 200

    assert swarm.call(1).interval <= 2
    assert swarm.table.downloaders == 1


def test_a_complete_node_calls_only_with_its_announcements() -> None:
    swarm = Swarm()

    assert swarm.call(1, range(CHUNKS), complete=True).interval >= 0.8 * SEEDS_INTERVAL
    assert swarm.announce(1) >= 0.8 * SEEDS_INTERVAL
    assert swarm.table.downloaders == 0


def test_swarms_are_bounded_and_the_least_recently_called_is_forgotten() -> None:
    table = LeaseTable(Random(1), max_swarms=2)
    for layer in ("1" * 64, "2" * 64):
        Swarm(layer, table=table).call(1)
    Swarm("1" * 64, table=table).call(2)
    Swarm("3" * 64, table=table).call(1)

    assert table.swarms == 2
    assert {one.ip for one in Swarm("1" * 64, table=table).call(3).peers} == {"10.0.0.1", "10.0.0.2"}
    assert Swarm("2" * 64, table=table).call(3).peers == []


def test_the_nodes_of_all_swarms_are_bounded() -> None:
    table = LeaseTable(Random(1), max_members=10)
    for layer in range(5):
        for number in range(4):
            Swarm(f"{layer:064x}", table=table).call(number)

    assert table.members <= 10
    assert len(Swarm(f"{4:064x}", table=table).call(0).peers) == 3


def test_a_wrong_number_of_chunks_does_not_affect_other_nodes() -> None:
    swarm = Swarm()
    swarm.call(1, want=1)
    swarm.call(2, want=1)
    for chunks in range(1, 100):
        Swarm(chunks=chunks, table=swarm.table).call(3, want=0) if chunks != CHUNKS else None

    assert swarm.table.swarms <= MAX_CHUNK_COUNTS
    assert sorted(one.ip for one in swarm.call(4).peers) == ["10.0.0.1", "10.0.0.2"]


def test_swarms_without_nodes_are_forgotten() -> None:
    swarm = Swarm()
    swarm.call(1)
    swarm.announce(2)
    swarm.now += MEMBER_TTL
    Swarm(OTHER_LAYER, table=swarm.table).table.announce_seeds(swarm.now, "0" * 32, peer(9), [])

    assert (swarm.table.swarms, swarm.table.members) == (0, 0)
