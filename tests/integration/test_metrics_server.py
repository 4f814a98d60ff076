"""`/metrics` of the scheduler: at a port of its own, with a limit on what its clients may take."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from ipaddress import ip_network

import requests

from core.metrics_server import MAX_CLIENTS, serve_metrics
from tests.servers.process import free_port


def test_silent_clients_take_no_more_than_their_share_of_threads() -> None:
    port = free_port()
    with serve_metrics("127.0.0.1", port, [ip_network("127.0.0.0/8")], dict), ExitStack() as clients:
        for _ in range(MAX_CLIENTS):
            clients.enter_context(socket.create_connection(("127.0.0.1", port)))
        with socket.create_connection(("127.0.0.1", port), timeout=60) as further:
            assert further.recv(1) == b""
        clients.close()
        while True:
            try:
                answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=60)
            except requests.ConnectionError:
                # A thread has not seen yet that its client left.
                continue
            break
    assert "docker_torrents_build_info" in answer.text
