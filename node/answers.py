"""Answers that the mirror makes itself: errors in the registry's JSON (distribution-spec, error codes)."""

from __future__ import annotations

import json
from collections.abc import Iterable

from bottle import HTTPError, HTTPResponse

_CODES = {400: "UNSUPPORTED", 404: "NOT_FOUND", 405: "UNSUPPORTED", 413: "SIZE_INVALID"}


def error(
    status: int, code: str, message: str, headers: Iterable[tuple[str, str]] = (), detail: object = None
) -> HTTPResponse:
    """An error in the registry's JSON. Neither `message` nor `detail` may hold a secret."""
    entry = {"code": code, "message": message, "detail": detail}
    answer = HTTPResponse(json.dumps({"errors": [entry]}).encode() + b"\n", status)
    answer.set_header("Content-Type", "application/json; charset=utf-8")
    for name, value in headers:
        answer.add_header(name, value)
    return answer


def unavailable(message: str, retry_after: float | None = None) -> HTTPResponse:
    """503: engines go on to the next mirror, or to the registry, at once."""
    headers = [] if retry_after is None else [("Retry-After", f"{retry_after:.0f}")]
    return error(503, "UNAVAILABLE", message, headers)


def framework_error(raised: HTTPError) -> HTTPResponse:
    """The answer to an error that Bottle raised: no such path, a wrong method, an exception."""
    status = raised.status_code
    kept = [(name, value) for name, value in raised.headers.items() if name == "Allow"]
    message = "internal error" if status >= 500 else "the mirror does not serve this"
    return error(status, _CODES.get(status, "UNKNOWN"), message, kept)
