"""What of a request goes on to the registry, and what of the registry's answer comes back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress

from bottle import HTTPResponse

from core.http.client import HttpAnswer

PASSED_ON = (
    "Accept",
    "Authorization",
    # Of it the registry may build the realm of its challenge (core/registry/urls.py).
    "Host",
    "If-None-Match",
    # The registry's log and its notifications tell who pulled; behind a proxy they go by these.
    "User-Agent",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "X-Request-Id",
)
"""A caller's headers that the registry gets. No other does: no cookie, no Range, none of the connection."""

_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,262}\Z")
_CONTROLS = re.compile(r"[\r\n\0]+[ \t]*")
_OF_THE_CONNECTION = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",  # no such header exists, but servers count it in
        "transfer-encoding",
        "upgrade",
    )
)


def passed_on(headers: Mapping[str, str], *, without: Iterable[str] = ()) -> dict[str, str]:
    """The caller's headers for the registry, as they came."""
    left_out = frozenset(without)
    passed = {
        name: value for name in PASSED_ON if name not in left_out and (value := headers.get(name)) is not None
    }
    if not _HOST.match(passed.get("Host", "")):
        passed.pop("Host", None)
    return passed


def untouched(answer: HttpAnswer, *, head: bool = False) -> HTTPResponse:
    """The registry's answer as it is: status, body, and all headers but those of its connection.

    `head` is for the answer to a HEAD, which may be of unknown length; that of a body is known here.
    """
    response = HTTPResponse(answer.body, answer.status)
    for name, value in lasting(answer):
        response.add_header(name, value)
    # Bottle would put them in where they are missing; but not where they are there without a value.
    for name in ("Content-Type", "Content-Length") if head else ("Content-Type",):
        response.headers.dict.setdefault(name, [])
    return response


def lasting(answer: HttpAnswer, *, without: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """The answer's headers that hold beyond its connection (RFC 9110, 7.6.1), less those `without`, which
    are in lower case.
    """
    named = ",".join(answer.headers.all("Connection")).lower()
    dropped = _OF_THE_CONNECTION | without | {name.strip() for name in named.split(",")}
    return [(name, _value(value)) for name, value in answer.headers if name.lower() not in dropped]


def _value(value: str) -> str:
    """A header's value as Bottle takes it, which sends text as UTF-8; it was read as Latin-1 (PEP 3333)."""
    with suppress(UnicodeError):
        value = value.encode("latin-1").decode()
    # Lines that were folded, as HTTP allowed of old (RFC 9112, 5.2).
    return _CONTROLS.sub(" ", value)
