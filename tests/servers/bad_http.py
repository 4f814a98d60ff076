"""Faulty answers for `HttpServer.on` that a client must handle, and some correct ones."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

from tests.servers.http_server import Answer, Connection, Request

BLOCK = b"\0" * (1 << 16)
_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")


def replying(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
    """The same complete answer to every request: a 429 with Retry-After, a manifest of 5 MB …"""

    def answer(request: Request, connection: Connection) -> None:
        connection.reply(status, body, headers)

    return answer


def html(status: int = 200) -> Answer:
    """A web page, as from a proxy or a login portal in front of the real server."""
    page = b"<!DOCTYPE html><html><body><h1>Please log in</h1></body></html>"
    return replying(status, page, {"Content-Type": "text/html; charset=utf-8"})


def redirecting(to: str, status: int = 302) -> Answer:
    """A redirect to `to`, a path or a URL; to the request's own path it makes a loop."""
    return replying(status, headers={"Location": to})


def silent() -> Answer:
    """Read the request and never answer."""

    def answer(request: Request, connection: Connection) -> None:
        connection.pause()

    return answer


def hanging_up(*, reset: bool = False) -> Answer:
    """Read the request and close the connection, with a TCP reset if `reset`."""
    return sending(b"", reset=reset)


def sending(raw: bytes, *, reset: bool = False) -> Answer:
    """Exactly these bytes, which need not be HTTP, then the end."""

    def answer(request: Request, connection: Connection) -> None:
        connection.send(raw)
        if reset:
            connection.reset()

    return answer


def endless(headers: Mapping[str, str] | None = None, block: bytes = BLOCK) -> Answer:
    """A body without length that is sent while the client reads it."""

    def answer(request: Request, connection: Connection) -> None:
        connection.send_head(200, headers or {})
        while True:
            connection.send(block)

    return answer


def endless_head() -> Answer:
    """Endless headers."""

    def answer(request: Request, connection: Connection) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.send(b"X-More: and more\r\n" * 1000)

    return answer


def misstating_length(body: bytes, stated: int, headers: Mapping[str, str] | None = None) -> Answer:
    """A body with a wrong Content-Length, then the end of the connection."""

    def answer(request: Request, connection: Connection) -> None:
        connection.send_head(200, {"Content-Length": str(stated), **(headers or {})})
        connection.send(body)

    return answer


def dripping(body: bytes, *, size: int, seconds: float, headers: Mapping[str, str] | None = None) -> Answer:
    """`size` bytes of the body, a pause of `seconds`, the next `size` bytes …"""

    def answer(request: Request, connection: Connection) -> None:
        connection.send_head(200, {"Content-Length": str(len(body)), **(headers or {})})
        for start in range(0, len(body), size):
            connection.send(body[start : start + size])
            connection.pause(seconds)

    return answer


def serving(body: bytes, *, ranges: bool = True, cut_after: int | None = None, reset: bool = False) -> Answer:
    """A file: 200, or 206 and 416 where the request has a Range (RFC 9110, 14.2; one range).

    With `ranges=False` a Range is ignored, as servers may. With `cut_after` every answer breaks after that
    many bytes of its body, though its Content-Length promises all of it; a `reset` may also take away some
    that the client has not read yet.
    """

    def answer(request: Request, connection: Connection) -> None:
        asked = _RANGE.match(request.headers.get("Range", "")) if ranges else None
        status, part, headers = 200, body, {"Accept-Ranges": "bytes" if ranges else "none"}
        if asked is not None:
            first = int(asked[1])
            if first >= len(body):
                connection.reply(416, headers={"Content-Range": f"bytes */{len(body)}"})
                return
            last = min(int(asked[2] or len(body)), len(body) - 1)
            status, part = 206, body[first : last + 1]
            headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        if cut_after is None or cut_after >= len(part):
            connection.reply(status, part, headers)
            return
        connection.send_head(status, {"Content-Length": str(len(part)), **headers})
        if request.method != "HEAD":
            connection.send(part[:cut_after])
            if reset:
                connection.reset()

    return answer


def in_turn(*answers: Answer) -> Answer:
    """The first answer to the first request, the second to the second …; the last to all further ones."""
    lock = threading.Lock()
    left = list(answers)

    def answer(request: Request, connection: Connection) -> None:
        with lock:
            now = left.pop(0) if len(left) > 1 else left[0]
        now(request, connection)

    return answer
