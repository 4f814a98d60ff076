"""The lease book: leases, peers, and when nodes call again."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

import pytest

from core.swarm.bitmap import Bitmap
from core.swarm.leases import (
    MAX_SIZES,
    SEEDS_GRACE,
    SHORTEST_BELIEF,
    SLOTS,
    LeaseBook,
    Reply,
)
from core.swarm.members import FORGET_AFTER
from core.swarm.messages import MAX_PEERS, SEEDS_INTERVAL, Peer, SwarmRequest
from core.swarm.turns import SHORTEST_LEASE

LAYER = "a" * 64
OTHER_LAYER = "b" * 64
CHUNKS = 40


class Swarm:
    """A book, and numbered nodes that call it at times that the test sets."""

    def __init__(self, layer: str = LAYER, chunks: int = CHUNKS, book: LeaseBook | None = None) -> None:
        self.book = book or LeaseBook(Random(1))
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
        return self.book.call(self.now, self.layer, peer(number), request)

    def announce(self, number: int) -> float:
        return self.book.announce(self.now, f"{number:032x}", peer(number), [(self.layer, self.chunks)])


def peer(number: int) -> Peer:
    return Peer(ip=f"10.0.{number >> 8}.{number & 255}", port=6881)


def leased(reply: Reply) -> list[int]:
    return [lease.chunk for lease in reply.leases]


def test_a_lone_node_gets_leases_of_the_lowest_chunks_for_all_slots() -> None:
    assert leased(Swarm().call(1)) == list(range(SLOTS))


def test_a_node_gets_no_more_leases_than_it_wants() -> None:
    swarm = Swarm()

    assert leased(swarm.call(1, want=3)) == [0, 1, 2]
    assert leased(swarm.call(1, want=0)) == [0, 1, 2], "it may finish its leases"


def test_nodes_share_the_slots() -> None:
    swarm = Swarm()
    for number in range(1, 5):
        swarm.call(number, want=1)
    swarm.now += 0.1

    assert len(swarm.call(1).leases) == SLOTS // 4


def test_many_nodes_hold_one_lease_each_of_different_chunks() -> None:
    swarm = Swarm(chunks=100)
    swarm.call(0, want=1)
    for number in range(1, 40):
        swarm.call(number, want=1)
    swarm.now += 0.1
    replies = [swarm.call(number) for number in range(40)]
    chunks = [chunk for reply in replies for chunk in leased(reply)]

    assert sorted(chunks) == list(range(SLOTS))
    assert all(len(reply.leases) <= 1 for reply in replies)


def test_a_node_that_passes_on_nothing_gets_no_lease_while_others_want_some() -> None:
    swarm = Swarm(chunks=100)
    swarm.call(2, want=0)
    assert leased(swarm.call(1, fetched=range(50), want=1, unspread=50)), "no other wants any"
    swarm.call(2, want=1)
    swarm.now += 1

    assert len(leased(swarm.call(1, range(50), unspread=50))) == 1, "what it holds it may finish"
    assert leased(swarm.call(1, range(51), fetched=[50], unspread=51)) == []
    assert len(leased(swarm.call(2, range(51)))) == SLOTS


@pytest.mark.parametrize("unspread", [0, 100])
def test_nodes_that_are_all_alike_get_leases(unspread: int) -> None:
    swarm = Swarm(chunks=100)
    for node in (1, 2):
        swarm.call(node, want=1, unspread=unspread)
    swarm.now += 0.1

    assert [len(leased(swarm.call(node, unspread=unspread))) for node in (1, 2)] == [SLOTS // 2, SLOTS // 2]


def test_a_slow_node_gets_leases_again_when_the_others_are_complete_or_silent() -> None:
    swarm = Swarm(chunks=100)
    swarm.call(2, want=1)
    swarm.call(3, want=1)
    assert leased(swarm.call(1, unspread=50)) == []
    swarm.call(2, complete=True)
    swarm.now += 2 * SHORTEST_BELIEF

    assert leased(swarm.call(1, unspread=50))


def test_a_node_alone_in_its_swarm_gets_leases_beside_other_swarms() -> None:
    swarm = Swarm(chunks=100)
    other = Swarm(OTHER_LAYER, book=swarm.book)
    other.call(2, want=1)

    assert leased(swarm.call(1, fetched=range(50), unspread=50)), "it has no peer to pass chunks to"


def test_slots_are_shared_by_all_layers() -> None:
    swarm = Swarm()
    other = Swarm(OTHER_LAYER, book=swarm.book)
    swarm.call(1)

    assert leased(other.call(2)) == []
    assert swarm.book.live_leases(swarm.now) == SLOTS


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

    assert (lease.chunk, lease.seconds) == (0, SHORTEST_LEASE - 2)


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
    again = swarm.call(1, held=[0, 1], want=0).again
    assert leased(swarm.call(2)) == []
    swarm.now += max(SHORTEST_BELIEF, 2 * again) + 1

    assert leased(swarm.call(2)) == [0, 1]


def test_chunks_never_leased_come_before_those_whose_lease_expired() -> None:
    swarm = Swarm(chunks=4)
    swarm.call(1, want=2)
    swarm.now += SHORTEST_LEASE

    assert leased(swarm.call(2, want=4)) == [2, 3, 0, 1]


def test_of_expired_leases_the_oldest_is_granted_first() -> None:
    swarm = Swarm(chunks=3)
    for number in (1, 2, 3):
        swarm.call(number, want=1)
        swarm.now += 1
    swarm.now += SHORTEST_LEASE

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

    assert (first.seconds, lease.seconds) == (SHORTEST_LEASE, 4 * 4)


def test_a_chunk_reported_twice_counts_once() -> None:
    swarm = Swarm()
    swarm.call(1, want=1)
    for _ in range(20):
        swarm.now += 1
        swarm.call(1, fetched=[0], want=0)
    [lease] = swarm.call(1, want=1).leases

    assert lease.seconds == SHORTEST_LEASE


def test_leases_of_a_node_that_stops_are_free() -> None:
    swarm = Swarm()
    swarm.call(1)
    swarm.call(1, stopped=True)

    assert swarm.book.live_leases(swarm.now) == 0
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
    named = {one.ip for _ in range(20) for one in swarm.call(300).peers}

    assert len(named) > 2 * MAX_PEERS


def test_nodes_silent_for_an_hour_are_not_listed() -> None:
    swarm = Swarm()
    swarm.call(1)
    swarm.announce(2)
    swarm.now += FORGET_AFTER - 1
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
    assert leased(swarm.call(2)) == list(range(SLOTS)), "the seed may have left"


def test_a_node_that_has_just_become_complete_counts_as_having_everything() -> None:
    swarm = Swarm()
    swarm.call(2)
    swarm.call(2, range(CHUNKS), complete=True)
    swarm.call(1)
    swarm.now += SEEDS_GRACE + 0.5
    assert leased(swarm.call(1)) == []
    swarm.now += SHORTEST_BELIEF

    assert len(swarm.call(1).leases) == SLOTS


@pytest.mark.parametrize(("nodes", "longest"), [(1, 2), (10, 2), (320, 3), (10_000, 90)])
def test_the_more_nodes_the_less_often_each_calls(nodes: int, longest: float) -> None:
    swarm = Swarm()
    for number in range(SLOTS, SLOTS + nodes):
        swarm.call(number, want=1)
    waits = [swarm.call(number, want=1).again for number in range(SLOTS, SLOTS + nodes)]
    without_lease = waits[SLOTS:] or waits

    assert all(nodes / 200 <= wait <= longest for wait in without_lease)
    assert all(wait <= 2 for wait in waits[:SLOTS]), "those with a lease call first"


def test_a_complete_node_calls_less_often() -> None:
    assert Swarm().call(1, range(CHUNKS)).again >= 0.8


def test_silent_nodes_do_not_slow_down_the_others() -> None:
    swarm = Swarm()
    for number in range(10_000):
        swarm.call(number)
    assert swarm.book.active == 10_000
    swarm.now += 200

    assert swarm.call(1).again <= 2
    assert swarm.book.active == 1


def test_a_complete_node_calls_only_with_its_announcements() -> None:
    swarm = Swarm()

    assert swarm.call(1, range(CHUNKS), complete=True).again >= 0.8 * SEEDS_INTERVAL
    assert swarm.announce(1) >= 0.8 * SEEDS_INTERVAL
    assert swarm.book.active == 0


def test_swarms_are_bounded_and_the_least_recently_called_is_forgotten() -> None:
    book = LeaseBook(Random(1), max_swarms=2)
    for layer in ("1" * 64, "2" * 64):
        Swarm(layer, book=book).call(1)
    Swarm("1" * 64, book=book).call(2)
    Swarm("3" * 64, book=book).call(1)

    assert book.swarms == 2
    assert {one.ip for one in Swarm("1" * 64, book=book).call(3).peers} == {"10.0.0.1", "10.0.0.2"}
    assert Swarm("2" * 64, book=book).call(3).peers == []


def test_the_nodes_of_all_swarms_are_bounded() -> None:
    book = LeaseBook(Random(1), max_members=10)
    for layer in range(5):
        for number in range(4):
            Swarm(f"{layer:064x}", book=book).call(number)

    assert book.members <= 10
    assert len(Swarm(f"{4:064x}", book=book).call(0).peers) == 3


def test_a_wrong_number_of_chunks_does_not_affect_other_nodes() -> None:
    swarm = Swarm()
    swarm.call(1, want=1)
    swarm.call(2, want=1)
    for chunks in range(1, 100):
        Swarm(chunks=chunks, book=swarm.book).call(3, want=0) if chunks != CHUNKS else None

    assert swarm.book.swarms <= MAX_SIZES
    assert sorted(one.ip for one in swarm.call(4).peers) == ["10.0.0.1", "10.0.0.2"]


def test_swarms_without_nodes_are_forgotten() -> None:
    swarm = Swarm()
    swarm.call(1)
    swarm.announce(2)
    swarm.now += FORGET_AFTER
    Swarm(OTHER_LAYER, book=swarm.book).book.announce(swarm.now, "0" * 32, peer(9), [])

    assert (swarm.book.swarms, swarm.book.members) == (0, 0)
