"""Error answers in the registry's JSON, so that its clients understand them."""

from __future__ import annotations

from collections.abc import Iterable

from bottle import HTTPError, HTTPResponse

from core.errors import DatabaseDown, InvalidName, ManifestInvalid, RemoteError, TimedOut
from core.registry.answers import ERROR_TYPE, error_body

RETRY = (("Retry-After", "5"),)

_BY_STATUS = {
    400: ("UNSUPPORTED", "bad request"),
    404: ("NOT_FOUND", "not found"),
    405: ("UNSUPPORTED", "method not allowed"),
    413: ("SIZE_INVALID", "the body is too large"),
    500: ("UNKNOWN", "internal error"),
}
"""Code and message for errors that Bottle raises."""

_BY_EXCEPTION: tuple[tuple[type[Exception], int, str, str], ...] = (
    # Bottle decodes headers and queries as UTF-8.
    (UnicodeDecodeError, 400, "HEADER_INVALID", "a header or the query is not UTF-8"),
    (TimedOut, 504, "UNAVAILABLE", "the registry did not answer in time"),
    (ManifestInvalid, 502, "UNAVAILABLE", "the registry's manifest is invalid"),
    (RemoteError, 502, "UNAVAILABLE", "the registry is unreachable, or its answer is invalid"),
    (DatabaseDown, 503, "UNAVAILABLE", "the database is unavailable"),
)
"""Status, code and message for exceptions, the most specific class first."""

_INVALID_NAME_CODES = {"digest": "DIGEST_INVALID", "tag": "TAG_INVALID", "platform": "UNSUPPORTED"}


def error(
    status: int,
    code: str,
    message: str,
    headers: Iterable[tuple[str, str]] = (),
    detail: object = None,
) -> HTTPResponse:
    """Return an error answer. `message` and `detail` must not contain a secret."""
    answer = HTTPResponse(error_body(code, message, detail), status, {"Content-Type": ERROR_TYPE})
    for name, value in headers:
        answer.add_header(name, value)
    return answer


def unavailable(message: str) -> HTTPResponse:
    """Return a 503 with Retry-After."""
    return error(503, "UNAVAILABLE", message, RETRY)


def from_exception(raised: Exception) -> HTTPResponse | None:
    """Return the answer to an exception of the domain, None for an unexpected one."""
    if isinstance(raised, InvalidName):
        code = _INVALID_NAME_CODES.get(raised.what, "NAME_INVALID")
        return error(400, code, f"invalid {raised.what}", detail=str(raised))
    for kind, status, code, message in _BY_EXCEPTION:
        if isinstance(raised, kind):
            return error(status, code, message, RETRY if status == 503 else ())
    return None


def from_bottle(raised: HTTPError) -> HTTPResponse:
    """Return the answer to an error that Bottle raised: unknown path, wrong method, unexpected exception.

    The exception's text is for the log, not for the client.
    """
    status = raised.status_code
    code, message = _BY_STATUS.get(status, ("UNKNOWN", "the request was refused"))
    kept = [(name, value) for name, value in raised.headers.items() if name in ("Allow", "Retry-After")]
    return error(status, code, message, kept)
