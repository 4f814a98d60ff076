"""Announces to a real tracker, by HTTP and UDP, and to addresses without a tracker."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

import core.trackers
from core.errors import BadAnswer, Refused, TimedOut, Unavailable
from core.http.client import HttpClient
from core.trackers import Announcer
from tests.servers.opentracker import Tracker, start_opentracker
from tests.servers.process import free_port
from tests.servers.registry import Registry

KNOWN, UNKNOWN = bytes(range(20)), bytes(20)


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    with start_opentracker(tmp_path_factory.mktemp("tracker"), [KNOWN.hex()]) as running:
        yield running


@pytest.fixture
def announcer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Announcer]:
    monkeypatch.setattr(core.trackers, "SECONDS", 20.0)
    with HttpClient(60.0, 60.0) as http:
        yield Announcer(http)


@pytest.mark.parametrize("scheme", ["http", "udp"])
def test_a_tracker_accepts_the_torrents_that_it_serves(
    tracker: Tracker, announcer: Announcer, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{scheme}://{tracker.host}:{tracker.port}/announce"

    announcer.announce(url, KNOWN, "started")
    assert tracker.peers(KNOWN.hex()) == (0, 1)
    announcer.announce(url, KNOWN, "stopped")
    assert tracker.peers(KNOWN.hex()) == (0, 0)

    # It does not answer by UDP.
    monkeypatch.setattr(core.trackers, "SECONDS", 2.0)
    with pytest.raises((Refused, TimedOut)) as caught:
        announcer.announce(url, UNKNOWN, "started")
    assert scheme in str(caught.value)


def test_an_error_shows_no_passkey(announcer: Announcer, registry: Registry) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    for url, error in [
        (f"http://{nowhere}/passkey/announce?key=passkey", Unavailable),
        (f"udp://{nowhere}/passkey/announce", Unavailable),
        (f"{registry.url}/passkey/announce", BadAnswer),
    ]:
        with pytest.raises(error) as caught:
            announcer.announce(url, KNOWN, "stopped")
        assert "127.0.0.1:" in str(caught.value)
        assert "passkey" not in str(caught.value)


def test_lost_and_foreign_udp_packets_are_tolerated(announcer: Announcer) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)

        def serve() -> None:
            server.recvfrom(2048)  # lost
            packet, caller = server.recvfrom(2048)
            server.sendto(b"short", caller)
            server.sendto(bytes(4) + b"else" + bytes(8), caller)
            server.sendto(bytes(4) + packet[12:16] + b"01234567", caller)
            packet, caller = server.recvfrom(2048)
            assert packet[:8] == b"01234567"
            server.sendto(b"\0\0\0\3" + packet[12:16] + b"not \x1b[31mhere", caller)

        answering = threading.Thread(target=serve)
        answering.start()
        with pytest.raises(Refused, match=r"refused: not \?\[31mhere"):
            announcer.announce(f"udp://127.0.0.1:{server.getsockname()[1]}", KNOWN, "started")
        answering.join()
