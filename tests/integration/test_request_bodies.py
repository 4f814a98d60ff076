"""Request bodies: only a notification's is read, and only with the right key and an allowed length."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path

import pytest

import web.events
from tests.nginx_front import SHIPPED
from tests.notifications import envelope, event
from tests.web_server import front_of, served

KEY = "secretkey"
LONG = 1_000_000


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    settings = {"application": {"event_authorization": KEY}}
    with front_of("127.0.0.1:1", tmp_path, settings=settings) as front, served(front) as netloc:
        yield int(netloc.partition(":")[2])


def answer_to(port: int, head: str, body: bytes = b"") -> tuple[int, str]:
    """Return the status and the code or text of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"{head}\r\nHost: a\r\n\r\n".encode())
        with suppress(ConnectionError):
            connection.sendall(body)
        answer = HTTPResponse(connection)
        answer.begin()
        content = answer.read()
    if answer.getheader("Content-Type", "").startswith("application/json"):
        return answer.status, json.loads(content)["errors"][0]["code"]
    return answer.status, content.decode()


@pytest.mark.parametrize(
    ("request_line", "refused"),
    [
        ("POST /v0/event HTTP/1.1", (401, "UNAUTHORIZED")),
        ("POST /v0/event HTTP/1.1\r\nAuthorization: other", (401, "UNAUTHORIZED")),
        ("PUT /v0/event HTTP/1.1\r\nAuthorization: secretkey", (405, "UNSUPPORTED")),
        ("PUT /v2/a/manifests/b HTTP/1.1", (405, "UNSUPPORTED")),
        ("GET /v2/a/manifests/b HTTP/1.1", (502, "UNAVAILABLE")),
        ("POST /anything HTTP/1.1\r\nAuthorization: secretkey", (404, "NOT_FOUND")),
    ],
)
@pytest.mark.parametrize("expect", ["", "\r\nExpect: 100-continue"])
def test_other_bodies_are_not_waited_for(
    port: int, request_line: str, refused: tuple[int, str], expect: str
) -> None:
    assert answer_to(port, f"{request_line}{expect}\r\nContent-Length: {LONG}") == refused
    chunk = b"%x\r\n%s\r\n" % (LONG, b" " * LONG)
    assert answer_to(port, f"{request_line}\r\nTransfer-Encoding: chunked", chunk) == refused


def test_an_event_may_be_long(port: int) -> None:
    body = envelope(event()) + b" " * 3_000_000
    head = f"POST /v0/event HTTP/1.1\r\nAuthorization: {KEY}\r\n"
    assert answer_to(port, f"{head}Content-Length: {len(body)}", body) == (200, "OK")
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    assert answer_to(port, f"{head}Transfer-Encoding: chunked", chunked) == (200, "OK")
    assert answer_to(port, f"{head}Content-Length: 50000000") == (413, "SIZE_INVALID")


def test_short_bodies_reach_the_app(port: int) -> None:
    assert answer_to(port, "PUT /v2/a/manifests/b HTTP/1.1\r\nContent-Length: 2", b"{}") == (
        405,
        "UNSUPPORTED",
    )
    assert answer_to(port, "POST /v0/event HTTP/1.1\r\nContent-Length: 2", b"{}") == (401, "UNAUTHORIZED")


def test_nginx_takes_a_little_more_than_the_app() -> None:
    mib = 1024 * 1024
    assert f"client_max_body_size {web.events.MAX_BODY // mib + 1}m;" in SHIPPED.read_text()
