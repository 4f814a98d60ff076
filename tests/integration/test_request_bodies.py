"""Bodies that nobody asked for: refused by their head, before they are on the disk or in memory."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPResponse
from pathlib import Path

import pytest

import web.events
import web.server
from tests.nginx_front import SHIPPED
from tests.notifications import envelope, event
from tests.web_server import front_of, served

KEY = "secretkey"
LONG = web.server.SHORT_BODY_BYTES + 1


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    settings = {"application": {"event_authorization": KEY}}
    with front_of("127.0.0.1:1", tmp_path, settings=settings) as front, served(front) as netloc:
        yield int(netloc.partition(":")[2])


def answer_to(port: int, head: str, body: bytes = b"") -> tuple[int, str]:
    """Status, and code or text, of what comes back."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(f"{head}\r\nHost: a\r\n\r\n".encode())
        with suppress(ConnectionError):
            connection.sendall(body)
        answer = HTTPResponse(connection)
        answer.begin()
        told = answer.read()
    if answer.getheader("Content-Type", "").startswith("application/json"):
        return answer.status, json.loads(told)["errors"][0]["code"]
    return answer.status, told.decode()


@pytest.mark.parametrize(
    ("request_line", "refused"),
    [
        ("POST /v0/event HTTP/1.1", (401, "UNAUTHORIZED")),
        ("POST /v0/event HTTP/1.1\r\nAuthorization: other", (401, "UNAUTHORIZED")),
        ("PUT /v0/event HTTP/1.1\r\nAuthorization: secretkey", (413, "SIZE_INVALID")),
        ("PUT /v2/a/manifests/b HTTP/1.1", (413, "SIZE_INVALID")),
        ("GET /v2/a/manifests/b HTTP/1.1", (413, "SIZE_INVALID")),
        ("POST /anything HTTP/1.1\r\nAuthorization: secretkey", (413, "SIZE_INVALID")),
    ],
)
@pytest.mark.parametrize("expect", ["", "\r\nExpect: 100-continue"])
def test_a_long_body_is_refused_before_it_is_sent(
    port: int, request_line: str, refused: tuple[int, str], expect: str
) -> None:
    assert answer_to(port, f"{request_line}{expect}\r\nContent-Length: {LONG}") == refused
    chunk = b"%x\r\n%s\r\n" % (LONG, b" " * LONG)
    assert answer_to(port, f"{request_line}\r\nTransfer-Encoding: chunked", chunk) == refused


def test_who_knows_the_key_may_send_a_long_event(port: int) -> None:
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


def test_the_limits_before_that_of_events_are_just_above_it() -> None:
    mib = 1024 * 1024
    assert web.events.MAX_BODY < web.server.LARGEST_BODY_BYTES <= web.events.MAX_BODY + mib
    assert f"client_max_body_size {web.server.LARGEST_BODY_BYTES // mib}m;" in SHIPPED.read_text()
