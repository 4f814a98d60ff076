"""The size limits and time-outs of the HTTP client."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from core.errors import BadAnswer, TimedOut
from core.http.client import HttpClient
from tests.servers import bad_http
from tests.servers.http_server import HttpServer
from tests.servers.waiting import comes_true


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with HttpClient(connect_timeout=1, read_timeout=20) as running:
        yield running


@pytest.fixture
def hasty() -> Iterator[HttpClient]:
    with HttpClient(connect_timeout=1, read_timeout=0.4) as running:
        yield running


class TestLimits:
    def test_a_body_may_be_as_long_as_the_limit(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.replying(200, b"x" * 1000))
        assert len(client.fetch("GET", server.url, limit=1000).body) == 1000

    def test_a_longer_body_is_not_read(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.replying(200, bytes(1 << 24)))
        with pytest.raises(BadAnswer, match="16777216 bytes, more than 1000"):
            client.fetch("GET", server.url, limit=1000)

    def test_an_endless_body_is_abandoned(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.endless())
        with pytest.raises(BadAnswer, match="more than 1000000 bytes"):
            client.fetch("GET", server.url, limit=1_000_000)
        assert comes_true(lambda: not answering(server))
        assert server.requests[0].sent < 20_000_000

    def test_endless_chunks_are_abandoned(self, server: HttpServer, client: HttpClient) -> None:
        chunk = b"400\r\n" + bytes(1024) + b"\r\n"
        server.on("/", bad_http.endless({"Transfer-Encoding": "chunked"}, chunk * 100))
        with pytest.raises(BadAnswer, match="more than 1000000 bytes"):
            client.fetch("GET", server.url, limit=1_000_000)

    def test_endless_headers_are_abandoned(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.endless_head())
        with pytest.raises(BadAnswer):
            client.fetch("GET", server.url)


class TestDeadlines:
    """No request lasts longer than both time-outs together."""

    @pytest.mark.parametrize(
        "answer",
        [
            bad_http.silent(),
            bad_http.dripping(b"x" * 1000, size=1, seconds=0.1),
            bad_http.dripping(b"x" * 500_000, size=5000, seconds=0.3),
        ],
        ids=["silence", "a byte at a time", "a little at a time"],
    )
    def test_ends(self, server: HttpServer, hasty: HttpClient, answer: bad_http.Answer) -> None:
        server.on("/", answer)
        with pytest.raises(TimedOut):
            hasty.fetch("GET", server.url)

    def test_may_be_shorter_for_one_request(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.silent())
        with pytest.raises(TimedOut) as caught:
            client.fetch("GET", server.url, seconds=0.05)
        assert caught.value.seconds == 0.05

    def test_applies_to_connecting_too(self) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, HttpClient(0.2, 20) as client:
            port = listener.getsockname()[1]
            # With its backlog full, Linux leaves further connections unanswered.
            waiting = [socket.socket() for _ in range(3)]
            for one in waiting:
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
            try:
                with pytest.raises(TimedOut) as caught:
                    client.fetch("GET", f"http://127.0.0.1:{port}/")
                assert caught.value.seconds == 0.2
            finally:
                for one in waiting:
                    one.close()


def answering(server: HttpServer) -> bool:
    """Return whether `server` is still answering a request."""
    return any(thread.name == f"serve-{server.port}" for thread in threading.enumerate())
