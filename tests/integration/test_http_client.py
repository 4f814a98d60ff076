"""The HTTP client with correct and faulty servers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from core.errors import BadAnswer, ConnectionCut, RemoteError, Unavailable
from core.http.client import HttpClient
from tests.servers import bad_http
from tests.servers.http_server import Connection, HttpServer, Request
from tests.servers.process import free_port
from tests.servers.registry import Registry


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with HttpClient(connect_timeout=1, read_timeout=20) as running:
        yield running


def saying(request: Request, connection: Connection) -> None:
    """Echo the request."""
    text = f"{request.method} {request.path} {request.query}".encode() + b"\n" + request.body
    connection.reply(200, text, {"X-Twice": "a"})


class TestAnAnswer:
    def test_has_status_headers_and_body(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/here", saying)
        answer = client.fetch("GET", f"{server.url}/here?a=b")
        assert answer.status == 200
        assert answer.body == b"GET /here {'a': ['b']}\n"
        assert answer.headers.get("x-twice") == "a"
        assert answer.headers.number("Content-Length") == len(answer.body)
        assert str(answer.target) == f"{server.url}/here"

    def test_keeps_every_line_of_a_header(self, server: HttpServer, client: HttpClient) -> None:
        head = b"HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm=a\r\nwww-authenticate: Bearer realm=b\r\n"
        server.on("/", bad_http.sending(head + b"Content-Length: 0\r\n\r\n"))
        answer = client.fetch("GET", server.url)
        assert answer.status == 401
        assert answer.headers.all("WWW-Authenticate") == ["Basic realm=a", "Bearer realm=b"]

    @pytest.mark.parametrize("status", [204, 304, 404, 418, 500, 599])
    def test_of_any_status_is_an_answer(self, server: HttpServer, client: HttpClient, status: int) -> None:
        server.on("/", bad_http.replying(status))
        assert client.fetch("GET", server.url).status == status

    def test_to_head_has_a_length_and_no_body(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.replying(200, b"x" * 1000))
        answer = client.fetch("HEAD", server.url)
        assert answer.body == b""
        assert answer.headers.number("Content-Length") == 1000

    def test_may_come_in_chunks_or_end_with_the_connection(
        self, server: HttpServer, client: HttpClient
    ) -> None:
        head = b"HTTP/1.1 200 OK\r\n"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n"
        server.on("/chunks", bad_http.sending(head + chunked))
        server.on("/end", bad_http.sending(head + b"\r\nhello world"))
        assert client.fetch("GET", f"{server.url}/chunks").body == b"hello world"
        assert client.fetch("GET", f"{server.url}/end").body == b"hello world"

    def test_is_not_decompressed(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", bad_http.replying(200, b"not really", {"Content-Encoding": "gzip"}))
        assert client.fetch("GET", server.url).body == b"not really"
        assert server.requests[0].headers["Accept-Encoding"] == "identity"


class TestARequest:
    def test_carries_headers_and_body(self, server: HttpServer, client: HttpClient) -> None:
        server.on("/", saying)
        answer = client.fetch("POST", server.url, headers={"X-Own": "1", "accept": "a, b"}, body=b"data")
        assert answer.body.endswith(b"\ndata")
        [request] = server.requests
        assert request.headers["X-Own"] == "1"
        assert request.headers["Accept"] == "a, b"
        assert request.headers["User-Agent"] == "docker-torrents"

    def test_100_continue_is_skipped(self, server: HttpServer, client: HttpClient) -> None:
        early = b"HTTP/1.1 100 Continue\r\nLink: </x>\r\nContent-Length: 0\r\n\r\n"
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        server.on("/", bad_http.sending(early * 2 + answer))
        got = client.fetch("GET", server.url)
        assert (got.status, got.body, got.headers.get("Link")) == (200, b"hello", None)

    def test_has_the_caller_s_user_agent_but_our_framing(
        self, server: HttpServer, client: HttpClient
    ) -> None:
        server.on("/", saying)
        theirs = {"user-agent": "docker/20", "Accept-Encoding": "gzip", "Content-Length": "99", "HOST": "x"}
        client.fetch("GET", server.url, headers=theirs)
        sent = server.requests[0].headers
        assert sent.get_all("User-Agent") == ["docker/20"]
        assert sent.get_all("Accept-Encoding") == ["identity"]
        assert sent.get_all("Host") == [server.netloc]
        assert "Content-Length" not in sent

    def test_may_name_another_host_where_redirects_are_not_followed(
        self, server: HttpServer, client: HttpClient
    ) -> None:
        server.on("/", saying)
        client.fetch("GET", server.url, headers={"Host": "registry.example"}, follow=False)
        assert server.requests[0].headers.get_all("Host") == ["registry.example"]

    def test_with_a_header_that_cannot_be_sent_does_not_show_it(
        self, server: HttpServer, client: HttpClient
    ) -> None:
        with pytest.raises(BadAnswer) as caught:
            client.fetch("GET", server.url, headers={"Authorization": "Basic secret\r\nX-Other: y"})
        assert "secret" not in str(caught.value)
        assert server.requests == []

    def test_ignores_the_environment(
        self, server: HttpServer, client: HttpClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
        monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{free_port()}")
        server.on("/", saying)
        assert client.fetch("GET", server.url).status == 200

    @pytest.mark.parametrize("url", ["", "/v2/", "ftp://127.0.0.1/secret", "http://127.0.0.1:x/?secret"])
    def test_needs_a_url(self, client: HttpClient, url: str) -> None:
        with pytest.raises(BadAnswer) as caught:
            client.fetch("GET", url)
        assert "secret" not in str(caught.value)


class TestFailures:
    def test_nothing_listens(self, client: HttpClient) -> None:
        with pytest.raises(Unavailable, match="Connection refused"):
            client.fetch("GET", f"http://127.0.0.1:{free_port()}/?secret")

    def test_an_unresolvable_name(self, client: HttpClient) -> None:
        with pytest.raises(Unavailable, match="host name cannot be resolved"):
            client.fetch("GET", "http://no-such-host.invalid/")

    @pytest.mark.parametrize("reset", [False, True])
    def test_the_server_hangs_up(self, server: HttpServer, client: HttpClient, reset: bool) -> None:
        server.on("/", bad_http.hanging_up(reset=reset))
        with pytest.raises(ConnectionCut) as caught:
            client.fetch("GET", server.url)
        assert caught.value.offset == 0

    def test_an_idempotent_request_is_repeated_once_after_a_hang_up(
        self, server: HttpServer, client: HttpClient
    ) -> None:
        server.on("/get", bad_http.in_turn(bad_http.hanging_up(), bad_http.replying(200, b"there")))
        server.on("/post", bad_http.in_turn(bad_http.hanging_up(), bad_http.replying(200, b"there")))
        assert client.fetch("GET", f"{server.url}/get").body == b"there"
        with pytest.raises(ConnectionCut):
            client.fetch("POST", f"{server.url}/post", body=b"x")

    @pytest.mark.parametrize("reset", [False, True])
    def test_a_body_is_cut(self, server: HttpServer, client: HttpClient, reset: bool) -> None:
        server.on("/", bad_http.serving(b"x" * 1000, cut_after=300, reset=reset))
        with pytest.raises(ConnectionCut):
            client.fetch("GET", server.url)

    def test_chunks_are_cut(self, server: HttpServer, client: HttpClient) -> None:
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        server.on("/", bad_http.sending(head + b"5\r\nhello\r\n5\r\nhe"))
        with pytest.raises(ConnectionCut):
            client.fetch("GET", server.url)

    @pytest.mark.parametrize(
        "raw",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\r\n\r\n\r\n",
            b"HTTP/1.1 abc OK\r\n\r\n",
            b"HTTP/1.1 99999 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nhello",
            b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nwhat\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello",
            b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 150 + b"\r\n",
        ],
    )
    def test_answers_that_break_http_are_refused(
        self, server: HttpServer, client: HttpClient, raw: bytes
    ) -> None:
        server.on("/", bad_http.sending(raw))
        with pytest.raises((BadAnswer, ConnectionCut)):
            client.fetch("GET", server.url)

    def test_https_to_a_plain_port_says_so(self, registry: Registry, client: HttpClient) -> None:
        with pytest.raises(Unavailable, match="the port does not speak TLS: set proto: http"):
            client.fetch("GET", f"https://{registry.netloc}/v2/")

    @pytest.mark.parametrize(
        "raw",
        [
            b"\x15\x03\x01\x00\x02\x02\x28",
            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
            b"HTTP/1.1 400 Bad Request\r\n\r\n<center>The plain HTTP request was sent to HTTPS port</center>",
        ],
        ids=["a TLS alert", "Go", "nginx"],
    )
    def test_http_to_a_tls_port_says_so(self, server: HttpServer, client: HttpClient, raw: bytes) -> None:
        server.on("/", bad_http.sending(raw))
        with pytest.raises(Unavailable, match="the port speaks TLS: set proto: https"):
            client.fetch("GET", server.url)

    def test_no_error_and_no_log_shows_a_query(
        self, server: HttpServer, client: HttpClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        server.on("/odd", bad_http.sending(b"HTTP/1.1 200 OK\r\nno header\r\n\r\n"))
        server.on("/silent", bad_http.silent())
        server.on("/loop", bad_http.redirecting("/loop?signature=secret"))
        caplog.set_level(logging.DEBUG)
        messages = []
        for path, seconds in (("odd", 20), ("silent", 0.4), ("loop", 20), ("nothing", 20)):
            url = f"http://user:secret@{server.netloc}/{path}?signature=secret"
            try:
                client.fetch("GET", url, seconds=seconds)
            except RemoteError as error:
                messages.append(f"{error} {error!r}")
        assert len(messages) >= 2
        assert "secret" not in " ".join(messages)
        assert "secret" not in caplog.text


def test_many_threads_share_the_client(server: HttpServer, client: HttpClient) -> None:
    server.on("/*", saying)
    wrong = []

    def ask(number: int) -> None:
        for round_ in range(10):
            path = f"/{number}/{round_}"
            answer = client.fetch("GET", server.url + path, seconds=30)
            if answer.body != f"GET {path} {{}}\n".encode():
                wrong.append(answer.body)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(server.requests) == 160
