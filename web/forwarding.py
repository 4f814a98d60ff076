"""Forward headers of a request to the registry, and of its answer to the caller."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping

from bottle import HTTPResponse

from core.http.client import HttpAnswer
from core.http.forwarding import end_to_end_headers

FORWARDED = (
    "Accept",
    "Authorization",
    # The registry may build the realm of its challenge from it (core/registry/urls.py).
    "Host",
    "If-None-Match",
    # Behind a proxy the registry's log and notifications take the caller from these.
    "User-Agent",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Forwarded-Proto",
    "X-Real-IP",
    "X-Request-Id",
)
"""The headers that go to the registry; cookies, Range and others do not."""

log = logging.getLogger(__name__)

_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,262}\Z")


def forwarded_headers(headers: Mapping[str, str], *, without: Iterable[str] = ()) -> dict[str, str]:
    """Return the caller's headers for the registry, unchanged."""
    excluded = frozenset(without)
    forwarded = {
        name: value for name in FORWARDED if name not in excluded and (value := headers.get(name)) is not None
    }
    if not _HOST.match(forwarded.get("Host", "")):
        forwarded.pop("Host", None)
    return forwarded


def untouched(answer: HttpAnswer, *, head: bool = False) -> HTTPResponse:
    """Return the registry's answer unchanged: status, body, and all headers but those of its connection.

    `head` is for the answer to a HEAD, whose length may be unknown.
    """
    if answer.status >= 500:
        log.warning("registry failed status=%d url=%s", answer.status, answer.target)
    response = HTTPResponse(answer.body, answer.status)
    for name, value in end_to_end_headers(answer.headers):
        response.add_header(name, value)
    # Keeps Bottle from adding them if the registry did not send them.
    for name in ("Content-Type", "Content-Length") if head else ("Content-Type",):
        response.headers.dict.setdefault(name, [])
    return response
