"""Answers of the mirror itself: errors in the registry's JSON (distribution-spec, error codes)."""

from __future__ import annotations

from collections.abc import Iterable

from bottle import HTTPError, HTTPResponse

from core.registry.answers import ERROR_TYPE, error_body

_CODES = {400: "UNSUPPORTED", 404: "NOT_FOUND", 405: "UNSUPPORTED", 413: "SIZE_INVALID"}


def error(
    status: int, code: str, message: str, headers: Iterable[tuple[str, str]] = (), detail: object = None
) -> HTTPResponse:
    """Return an error in the registry's JSON. Neither `message` nor `detail` may contain a secret."""
    answer = HTTPResponse(error_body(code, message, detail), status, {"Content-Type": ERROR_TYPE})
    for name, value in headers:
        answer.add_header(name, value)
    return answer


def unavailable(message: str, retry_after: float | None = None) -> HTTPResponse:
    """Return 503: engines try the next mirror, or the registry, at once."""
    headers = [] if retry_after is None else [("Retry-After", f"{retry_after:.0f}")]
    return error(503, "UNAVAILABLE", message, headers)


def framework_error(raised: HTTPError) -> HTTPResponse:
    """Return the answer to an error that Bottle raised: unknown path, wrong method, exception."""
    status = raised.status_code
    kept = [(name, value) for name, value in raised.headers.items() if name == "Allow"]
    message = "internal error" if status >= 500 else "the mirror does not serve this"
    return error(status, _CODES.get(status, "UNKNOWN"), message, kept)
