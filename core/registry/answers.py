"""The registry's errors: those for unexpected answers of it or its token server, and our own in its JSON."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from core.errors import BadAnswer, NotFound, Refused, RemoteError, TooManyRequests, Unavailable
from core.http.client import HttpAnswer
from core.http.headers import Headers
from core.http.stream import HttpStream
from core.http.url import parse_url

ERROR_TYPE = "application/json; charset=utf-8"
_ERROR_LIMIT = 64 * 1024
_MAX_TEXT = 200
_MAX_RETRY_AFTER = 86_400.0


def refusal(answer: HttpAnswer | HttpStream, url: str, what: str) -> RemoteError:
    """Return the error for the registry's answer to a request of `what` at `url`."""
    where = str(answer.target)
    if answer.status in (401, 403) and answer.target.origin != parse_url(url).origin:
        # The URL of the redirect has expired, or the clocks differ: a new one may work.
        return Unavailable(where, f"the registry's storage answers {answer.status}")
    body = _beginning(answer) if isinstance(answer, HttpStream) else answer.body
    return from_status(answer.status, answer.headers, body, where, what)


def _beginning(stream: HttpStream) -> bytes:
    """Return the beginning of an error's body, as far as it can be read."""
    try:
        return stream.read(_ERROR_LIMIT)
    except RemoteError:
        return b""


def from_status(status: int, headers: Headers, body: bytes, where: str, what: str) -> RemoteError:
    """Return the error for an answer whose status is not the expected one.

    `where` is the URL to show, `what` names the requested resource. `body` may be truncated.
    """
    details = _error_text(body)
    if status == 404 and not is_html(headers):
        return NotFound(what)
    if status == 501:
        return Refused(where, status, f"not implemented{details}")
    if status in (408, 429) or 500 <= status < 600:
        kind = TooManyRequests if status == 429 else Unavailable
        return kind(where, f"status {status}{details}", retry_after(headers))
    if status == 401:
        return Refused(where, status, f"authentication required{details}")
    if status == 403:
        return Refused(where, status, f"access denied{details}")
    if status == 405:
        return Refused(where, status, f"method not allowed{details}")
    if 400 <= status < 500 and status != 404:
        return Refused(where, status, f"bad request{details}")
    page = " with a web page" if is_html(headers) else ""
    return BadAnswer(where, f"status {status}{page}{details}")


def refuse_page(headers: Headers, target: object) -> None:
    """Raise BadAnswer if `target` sent a web page, whatever its status."""
    if is_html(headers):
        raise BadAnswer(str(target), "a web page instead of the registry's answer")


def is_html(headers: Headers) -> bool:
    """Return whether the answer is a web page, as from a login portal or a proxy."""
    return (headers.get("Content-Type") or "").lower().lstrip().startswith(("text/html", "application/xhtml"))


def _error_text(body: bytes) -> str:
    """Return the code and message of a registry's error (distribution-spec, error codes), as `: CODE:
    message`.
    """
    try:
        first = json.loads(body)["errors"][0]
        text = f"{first['code']}: {first.get('message', '')}"
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return ""
    plain = "".join(character if character.isprintable() else "?" for character in text[:_MAX_TEXT])
    return f": {plain}"


def retry_after(headers: Headers) -> float | None:
    """Return Retry-After in seconds, from a number or a date by the server's clock (RFC 9110, 10.2.3)."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    seconds: float | None = headers.number("Retry-After")
    if seconds is None:
        until, now = parse_date(value), parse_date(headers.get("Date") or "") or datetime.now(UTC)
        if until is None:
            return None
        seconds = (until - now).total_seconds()
    return min(max(math.ceil(seconds), 0), _MAX_RETRY_AFTER)


def parse_date(value: str) -> datetime | None:
    """Parse an HTTP date (RFC 9110, 5.6.7); None if it is invalid."""
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def error_body(code: str, message: str, detail: object = None) -> bytes:
    """Return the body of an error for the registry's clients (docker/distribution, spec/api.md, Errors).

    `message` and `detail` must not contain a secret.
    """
    return json.dumps({"errors": [{"code": code, "message": message, "detail": detail}]}).encode() + b"\n"
