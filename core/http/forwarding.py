"""Headers of an answer that is forwarded to another connection."""

from __future__ import annotations

import re
from contextlib import suppress

from core.http.headers import Headers

_CONTROLS = re.compile(r"[\r\n\0]+[ \t]*")
_HOP_BY_HOP = frozenset(
    (
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "trailers",  # not a standard header, but servers drop it too
        "transfer-encoding",
        "upgrade",
    )
)


def end_to_end_headers(headers: Headers, *, without: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """Return the headers that are not about the connection (RFC 9110, 7.6.1), as text for Bottle.

    `without` lists further names to drop, in lower case.
    """
    named = ",".join(headers.all("Connection")).lower()
    dropped = _HOP_BY_HOP | without | {name.strip() for name in named.split(",")}
    return [(name, _as_text(value)) for name, value in headers if name.lower() not in dropped]


def _as_text(value: str) -> str:
    """Return a value that was decoded as Latin-1 (PEP 3333) for a framework that encodes as UTF-8."""
    with suppress(UnicodeError):
        value = value.encode("latin-1").decode()
    # Folded lines, which HTTP once allowed (RFC 9112, 5.2).
    return _CONTROLS.sub(" ", value)
