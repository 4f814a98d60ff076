"""Which of the peers from the service a node connects to."""

from __future__ import annotations

from core.swarm.messages import MAX_OPENED, MAX_PEERS, Peer
from node.session import MAX_CONNECTIONS
from node.swarm_download import peers_to_connect

NAMED = [Peer(ip=f"10.0.0.{number}", port=6881) for number in range(MAX_PEERS)]


def test_a_node_opens_half_of_its_connections_itself() -> None:
    assert len(peers_to_connect(NAMED, {}, 0, 0.0)) == MAX_OPENED
    assert len(peers_to_connect(NAMED, {}, 20, 0.0)) == MAX_OPENED - 20
    assert peers_to_connect(NAMED, {}, 40, 0.0) == []
    assert MAX_CONNECTIONS == 2 * MAX_OPENED


def test_a_peer_is_not_connected_to_again_at_once() -> None:
    opened: dict[tuple[str, int], float] = {}

    assert peers_to_connect(NAMED[:2], opened, 0, 0.0) == [("10.0.0.0", 6881), ("10.0.0.1", 6881)]
    assert peers_to_connect(NAMED[:3], opened, 0, 0.1) == [("10.0.0.2", 6881)]
    assert len(peers_to_connect(NAMED[:3], opened, 0, 3600.0)) == 3
