"""Calls to a WSGI app without a server or a socket, checked against PEP 3333 on both sides."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes
from wsgiref.headers import Headers
from wsgiref.validate import validator

App = Callable[..., Iterable[bytes]]


@dataclass(frozen=True)
class Answer:
    """A complete answer. `error` is the exception raised by iterating over the body."""

    status: int
    headers: Headers
    body: bytes
    error: BaseException | None = None


def call(
    app: App,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
    environ: Mapping[str, Any] | None = None,
    chunks: int | None = None,
) -> Answer:
    """Call `app`, and return the answer. `path` may be percent-encoded and have a query.

    `environ` overrides the values of a server. With `chunks` the client leaves after that many parts of
    the body.
    """
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(
        status: str, sent: list[tuple[str, str]], _: object = None
    ) -> Callable[[bytes], object]:
        started.append((status, sent))
        return lambda data: None

    parts = validator(app)(
        environ_of(method, path, headers or {}, body) | dict(environ or {}), start_response
    )
    received, broken = [], None
    try:
        for number, part in enumerate(parts):
            if number == chunks:
                break
            received.append(part)
    except Exception as error:  # noqa: BLE001  # the test checks it
        broken = error
    finally:
        parts.close()
    status, sent = started[-1]
    return Answer(int(status.split()[0]), Headers(sent), b"".join(received), broken)


def environ_of(method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> dict[str, Any]:
    """Return the environment of a request (PEP 3333)."""
    path, _, query = path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "10050",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"] = value
    return environ
