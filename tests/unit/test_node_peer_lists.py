"""The lists of peers that a node requests, and its connections to the nodes in them."""

from __future__ import annotations

import pytest

from core.swarm.messages import MAX_OPENED, MAX_PEERS, Peer
from node.peer_lists import PeerLists
from node.session import MAX_CONNECTIONS
from tests.clock import Clock

NAMED = [Peer(ip=f"10.0.0.{number}", port=6881) for number in range(MAX_PEERS)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lists(clock: Clock) -> PeerLists:
    return PeerLists(clock)


@pytest.mark.parametrize(("connections", "chosen"), [(0, MAX_OPENED), (20, MAX_OPENED - 20), (40, 0)])
def test_a_node_opens_half_of_its_connections_itself(lists: PeerLists, connections: int, chosen: int) -> None:
    assert len(lists.to_connect(NAMED, connections)) == chosen
    assert MAX_CONNECTIONS == 2 * MAX_OPENED


def test_a_peer_is_not_connected_to_again_at_once(lists: PeerLists, clock: Clock) -> None:
    assert lists.to_connect(NAMED[:2], 0) == [("10.0.0.0", 6881), ("10.0.0.1", 6881)]
    clock.now = 0.1
    assert lists.to_connect(NAMED[:3], 0) == [("10.0.0.2", 6881)]
    clock.now = 3600.0
    assert len(lists.to_connect(NAMED[:3], 0)) == 3

    lists.disconnected()
    assert len(lists.to_connect(NAMED[:3], 0)) == 3


def test_peers_are_requested_until_all_are_connected_and_then_every_few_seconds(
    lists: PeerLists, clock: Clock
) -> None:
    assert lists.to_request(0) == MAX_PEERS
    lists.to_connect(NAMED[:3], 0)
    assert lists.to_request(2) == MAX_PEERS, "one is not connected"
    assert lists.to_request(3) == 0
    lists.to_connect([], 3)
    assert lists.named == 3, "an answer without a list does not end the swarm"
    clock.now = 5.0
    assert lists.to_request(3) == MAX_PEERS
    assert lists.to_request(MAX_OPENED) == 0, "it would connect to none of them"


def test_a_node_that_is_alone_requests_peers_with_each_call(lists: PeerLists) -> None:
    lists.to_request(0)
    lists.to_connect(NAMED[:1], 0)
    lists.to_request(0)
    lists.to_connect([], 0)

    assert lists.named == 0
    assert lists.to_request(0) == MAX_PEERS
