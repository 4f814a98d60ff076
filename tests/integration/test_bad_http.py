"""The scripted HTTP server misbehaves exactly as scripted."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import requests

from tests.servers import bad_http, http_server
from tests.servers.http_server import Answer, HttpServer, start_http_server
from tests.servers.waiting import comes_true, returns

BODY = bytes(range(256)) * 400


def _raw(server: HttpServer, request: bytes) -> bytes:
    """Return everything that the server sends in answer to these bytes, until it closes."""
    with socket.create_connection((server.host, server.port), timeout=60) as client:
        client.sendall(request)
        answer = b""
        while data := client.recv(1 << 16):
            answer += data
    return answer


def _threads(server: HttpServer) -> int:
    """Return the number of threads of the server: one that accepts, and one for each connection."""
    return sum(thread.name.endswith(f"-{server.port}") for thread in threading.enumerate())


def test_paths_have_their_own_answers_and_requests_are_recorded(server: HttpServer) -> None:
    server.on("/v2/*", bad_http.replying(200, b"below"))
    server.on("/v2/exact", bad_http.replying(429, b"later", {"Retry-After": "3"}))
    assert (
        requests.get(f"{server.url}/v2/a/b?n=1&n=2", headers={"X-One": "1"}, timeout=60).content == b"below"
    )
    late = requests.post(f"{server.url}/v2/exact", data=b"the body", timeout=60)
    assert (late.status_code, late.headers["Retry-After"]) == (429, "3")
    assert requests.get(f"{server.url}/elsewhere", timeout=60).status_code == 404
    first, second, _ = server.requests
    assert (first.method, first.path, first.query, first.headers["x-one"]) == (
        "GET",
        "/v2/a/b",
        {"n": ["1", "2"]},
        "1",
    )
    assert (second.method, second.body) == ("POST", b"the body")
    assert server.requests_of("/v2/exact") == [second]


def test_a_chunked_request_body_is_read(server: HttpServer) -> None:
    server.on("/", bad_http.replying(200))
    requests.post(server.url, data=iter([b"one ", b"two"]), timeout=60)
    assert server.requests[0].body == b"one two"


def test_head_has_the_length_and_no_body(server: HttpServer) -> None:
    server.on("/file", bad_http.serving(BODY))
    answer = _raw(server, b"HEAD /file HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert f"Content-Length: {len(BODY)}\r\n".encode() in answer


def test_ranges_are_served(server: HttpServer) -> None:
    server.on("/file", bad_http.serving(BODY))
    server.on("/whole", bad_http.serving(BODY, ranges=False))

    def get(path: str, span: str) -> tuple[int, str | None, bytes]:
        answer = requests.get(f"{server.url}{path}", headers={"Range": span}, timeout=60)
        return answer.status_code, answer.headers.get("Content-Range"), answer.content

    assert get("/file", "bytes=10-19") == (206, f"bytes 10-19/{len(BODY)}", BODY[10:20])
    assert get("/file", "bytes=102390-") == (206, "bytes 102390-102399/102400", BODY[-10:])
    assert get("/file", "bytes=102400-") == (416, "bytes */102400", b"")
    assert get("/whole", "bytes=10-19") == (200, None, BODY)


def test_a_body_is_cut_and_resumed(server: HttpServer) -> None:
    server.on("/file", bad_http.in_turn(bad_http.serving(BODY, cut_after=1000), bad_http.serving(BODY)))
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="1000 bytes read"):
        requests.get(f"{server.url}/file", timeout=60)
    rest = requests.get(f"{server.url}/file", headers={"Range": "bytes=1000-"}, timeout=60)
    assert rest.content == BODY[1000:]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (bad_http.serving(BODY, cut_after=1000, reset=True), requests.exceptions.ChunkedEncodingError),
        (bad_http.hanging_up(), requests.ConnectionError),
        (bad_http.hanging_up(reset=True), requests.ConnectionError),
        (bad_http.sending(b"SSH-2.0-nonsense\r\n"), requests.ConnectionError),
        (bad_http.misstating_length(b"short", 10), requests.exceptions.ChunkedEncodingError),
        (bad_http.redirecting("/"), requests.TooManyRedirects),
        (bad_http.endless_head(), requests.ConnectionError),
    ],
    ids=["cut", "closed", "reset", "not HTTP", "short", "loop", "endless head"],
)
def test_a_client_gets_an_error(server: HttpServer, answer: Answer, error: type[Exception]) -> None:
    server.on("/", answer)
    with pytest.raises(error):
        requests.get(server.url, timeout=60)


@pytest.mark.parametrize(
    "answer", [bad_http.silent(), bad_http.dripping(b"slow", size=1, seconds=600)], ids=["silence", "drip"]
)
def test_a_client_times_out(server: HttpServer, answer: Answer) -> None:
    server.on("/", answer)
    # While the head is read it is a ReadTimeout, later a ConnectionError.
    with pytest.raises((requests.ReadTimeout, requests.ConnectionError), match="timed out"):
        requests.get(server.url, timeout=2)


def test_an_endless_body_ends_when_its_reader_leaves(server: HttpServer) -> None:
    server.on("/", bad_http.endless())
    with requests.get(server.url, stream=True, timeout=60) as answer:
        assert len(answer.raw.read(1_000_000)) == 1_000_000
    [request] = server.requests
    # The last blocks may be cut off, or not counted yet.
    assert request.sent > 800_000
    assert comes_true(lambda: _threads(server) == 1)


def test_a_web_page_is_sent_instead_of_json(server: HttpServer) -> None:
    server.on("/v2/", bad_http.html())
    answer = requests.get(f"{server.url}/v2/", timeout=60)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


def test_a_slow_body_is_read_to_its_end(server: HttpServer) -> None:
    server.on("/", bad_http.dripping(b"abcd", size=2, seconds=0.1))
    began = time.monotonic()
    assert requests.get(server.url, timeout=60).content == b"abcd"
    assert time.monotonic() - began >= 0.1


def test_closing_ends_requests_in_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "IDLE_SECONDS", 600)
    with start_http_server() as server:
        server.on("/", bad_http.silent())
        with socket.create_connection((server.host, server.port), timeout=60) as asking:
            asking.sendall(b"GET / HTTP/1.1\r\n\r\n")
            with socket.create_connection((server.host, server.port), timeout=60):  # sends nothing
                assert comes_true(lambda: server.requests)
                assert returns(server.close)
                assert asking.recv(1) == b""
    assert _threads(server) == 0
