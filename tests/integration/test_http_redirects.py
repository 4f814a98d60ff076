"""Redirects, and the credentials that must not follow them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from core.errors import BadAnswer
from core.http.client import HttpClient
from tests.servers import bad_http
from tests.servers.http_server import HttpServer, start_http_server

SECRETS = {"Authorization": "Bearer secret", "Cookie": "secret=1", "proxy-authorization": "Basic secret"}


@pytest.fixture
def other() -> Iterator[HttpServer]:
    with start_http_server() as running:
        running.on("/there", bad_http.replying(200, b"there"))
        yield running


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with HttpClient(connect_timeout=1, read_timeout=20) as running:
        yield running


def secrets_of(server: HttpServer) -> list[str]:
    """Return every credential that `server` has received."""
    return [
        value
        for request in server.requests
        for name in SECRETS
        for value in request.headers.get_all(name, [])
    ]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_are_followed(
    server: HttpServer, other: HttpServer, client: HttpClient, status: int, method: str
) -> None:
    server.on("/", bad_http.redirecting(f"{other.url}/there", status))
    answer = client.fetch(method, server.url)
    assert answer.status == 200
    assert answer.body == (b"there" if method == "GET" else b"")
    assert str(answer.target) == f"{other.url}/there"
    assert [request.method for request in other.requests] == [method]


def test_are_followed_with_the_same_headers(
    server: HttpServer, other: HttpServer, client: HttpClient
) -> None:
    server.on("/", bad_http.redirecting(f"{other.url}/there?signature=a%2Fb"))
    client.fetch("GET", server.url, headers={"Range": "bytes=5-", "Accept": "a"})
    [request] = other.requests
    assert request.query == {"signature": ["a/b"]}
    assert request.headers["Range"] == "bytes=5-"
    assert request.headers["Accept"] == "a"


class TestCredentials:
    def test_are_sent_only_to_their_host_and_port(
        self, server: HttpServer, other: HttpServer, client: HttpClient
    ) -> None:
        server.on("/", bad_http.redirecting(f"{other.url}/there"))
        assert client.fetch("GET", server.url, headers=SECRETS).body == b"there"
        assert sorted(secrets_of(server)) == sorted(SECRETS.values())
        assert secrets_of(other) == []

    def test_follow_a_redirect_within_the_origin(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.redirecting("/next"))
        server.on("/next", bad_http.replying(200))
        client.fetch("GET", server.url, headers=SECRETS)
        assert server.requests[1].headers["Authorization"] == SECRETS["Authorization"]

    def test_stay_dropped_after_a_redirect_back(
        self, server: HttpServer, other: HttpServer, client: HttpClient
    ) -> None:
        server.on("/", bad_http.redirecting(f"{other.url}/back"))
        other.on("/back", bad_http.redirecting(f"{server.url}/end"))
        server.on("/end", bad_http.replying(200))
        client.fetch("GET", server.url, headers=SECRETS)
        assert server.requests[0].headers["Authorization"] == SECRETS["Authorization"]
        assert "Authorization" not in server.requests[1].headers

    def test_another_name_for_the_same_host_is_another_host(
        self, server: HttpServer, client: HttpClient
    ) -> None:
        server.on("/", bad_http.redirecting(f"http://localhost:{server.port}/next"))
        server.on("/next", bad_http.replying(200))
        client.fetch("GET", server.url, headers=SECRETS)
        assert "Authorization" not in server.requests[1].headers


class TestAreNotFollowed:
    def test_if_the_caller_handles_them_itself(
        self, server: HttpServer, other: HttpServer, client: HttpClient
    ) -> None:
        server.on("/", bad_http.redirecting(f"{other.url}/there", 307))
        answer = client.fetch("GET", server.url, follow=False)
        assert answer.status == 307
        assert answer.headers.get("Location") == f"{other.url}/there"
        assert other.requests == []

    def test_with_a_request_that_has_effects(
        self, server: HttpServer, other: HttpServer, client: HttpClient
    ) -> None:
        server.on("/", bad_http.redirecting(f"{other.url}/there", 307))
        assert client.fetch("POST", server.url, body=b"x").status == 307
        assert other.requests == []

    def test_if_they_are_not_redirects(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.replying(304, headers={"Location": "/there"}))
        assert client.fetch("GET", server.url).status == 304

    def test_in_a_loop(self, server: HttpServer, other: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.redirecting(f"{other.url}/back"))
        other.on("/back", bad_http.redirecting(f"{server.url}/"))
        with pytest.raises(BadAnswer, match="redirect loop"):
            client.fetch("GET", server.url)
        assert len(server.requests) == 1

    def test_more_than_five_times(self, server: HttpServer, client: HttpClient) -> None:
        for number in range(10):
            server.on(f"/{number}", bad_http.redirecting(f"/{number + 1}"))
        server.on("/10", bad_http.replying(200, b"there"))
        assert client.fetch("GET", f"{server.url}/5").body == b"there"
        with pytest.raises(BadAnswer, match="more than 5 redirects"):
            client.fetch("GET", f"{server.url}/4")

    @pytest.mark.parametrize("to", ["file:///etc/passwd", "ftp://127.0.0.1/", "http://:1/", "http://[/", ""])
    def test_to_another_scheme(self, server: HttpServer, client: HttpClient, to: str) -> None:
        server.on("/", bad_http.redirecting(to))
        with pytest.raises(BadAnswer):
            client.fetch("GET", server.url)

    def test_without_a_location(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.replying(302))
        with pytest.raises(BadAnswer, match="without a Location"):
            client.fetch("GET", server.url)


def test_the_endless_body_of_a_redirect_is_not_read(
    server: HttpServer, other: HttpServer, client: HttpClient
) -> None:
    server.on("/", lambda request, connection: _endless_redirect(connection, f"{other.url}/there"))
    assert client.fetch("GET", server.url).body == b"there"


def _endless_redirect(connection: bad_http.Connection, to: str) -> None:
    connection.send_head(302, {"Location": to})
    while True:
        connection.send(bad_http.BLOCK)
