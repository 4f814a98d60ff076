"""Answers that the app itself makes: errors as the registry tells them, so that its clients understand them.

The form is docker/distribution's (spec/api.md, Errors): `{"errors": [{code, message, detail}]}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from bottle import HTTPError, HTTPResponse

# What the registry calls each status, where the app has nothing more exact to say.
CODES = {
    400: "UNSUPPORTED",
    401: "UNAUTHORIZED",
    403: "DENIED",
    404: "NOT_FOUND",
    405: "UNSUPPORTED",
    413: "SIZE_INVALID",
    429: "TOOMANYREQUESTS",
    500: "UNKNOWN",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}
_MESSAGES = {
    404: "there is nothing here",
    405: "the method is not for this",
    413: "the body is too large",
    500: "something is wrong on this side",
}


def error(
    status: int,
    code: str,
    message: str,
    headers: Iterable[tuple[str, str]] = (),
    detail: object = None,
) -> HTTPResponse:
    """An error in the registry's JSON. Neither `message` nor `detail` may hold a secret."""
    answer = HTTPResponse(status=status, body=error_body(code, message, detail))
    answer.set_header("Content-Type", "application/json; charset=utf-8")
    for name, value in headers:
        answer.add_header(name, value)
    return answer


def error_body(code: str, message: str, detail: object = None) -> bytes:
    """The registry's JSON for one error."""
    told = {"code": code, "message": message, "detail": detail}
    return json.dumps({"errors": [told]}).encode() + b"\n"


def failure(raised: HTTPError) -> HTTPResponse:
    """The answer to an error that Bottle raised: no such path, a wrong method, a failure of ours.

    What went wrong inside is for the log, never for the client.
    """
    status = raised.status_code
    kept = [(name, value) for name, value in raised.headers.items() if name in ("Allow", "Retry-After")]
    message = _MESSAGES.get(status, "the request was refused")
    return error(status, CODES.get(status, "UNKNOWN"), message, kept)
