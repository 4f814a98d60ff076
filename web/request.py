"""Headers, path and body of a request, without Bottle's decoding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import bottle

from web.errors import error

_PREFIX = "HTTP_"
_BLOCK = 64 * 1024


@lru_cache(maxsize=64)
def _key(name: str) -> str:
    return _PREFIX + name.upper().replace("-", "_")


class RequestHeaders(Mapping[str, str]):
    """The headers of a request by name, in any case. Values are bytes decoded as Latin-1 (PEP 3333)."""

    def __init__(self, environ: Mapping[str, Any]) -> None:
        self._environ = environ

    def __getitem__(self, name: str) -> str:
        value: str = self._environ[_key(name)]
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value, or `default`. Faster than the inherited method, which raises an exception."""
        return self._environ.get(_key(name), default)

    def __iter__(self) -> Iterator[str]:
        for key in self._environ:
            if key.startswith(_PREFIX):
                yield key.removeprefix(_PREFIX).replace("_", "-").title()

    def __len__(self) -> int:
        return sum(1 for _ in self)


def request_headers() -> RequestHeaders:
    """Return the headers of the current request."""
    return RequestHeaders(bottle.request.environ)


def path_after(prefix: str) -> str:
    """Return the rest of the current request's path, percent-decoded, one character per byte.

    Bottle's own decoding drops bytes that are not UTF-8, which could result in another name.
    """
    path: str = bottle.request.environ["bottle.raw_path"]
    return path.removeprefix(prefix)


def read_body(environ: Mapping[str, Any], limit: int) -> bytes:
    """Return the body, of at most `limit` bytes. The server marks its end (`wsgi.input_terminated`).

    Raises bottle.HTTPResponse: 413 for a longer one, by its Content-Length before any of it is read; 400 for
    one shorter than its Content-Length. Bottle's own reader would decode chunks that the server has decoded
    already.
    """
    declared = environ.get("CONTENT_LENGTH") or None
    if declared is not None and not (declared.isascii() and declared.isdigit()):
        raise error(400, "SIZE_INVALID", "Content-Length is not a number")
    if declared is not None and (len(declared) > 18 or int(declared) > limit):
        raise _too_large(limit)
    wanted = limit + 1 if declared is None else int(declared)
    body = bytearray()
    try:
        while len(body) < wanted:
            block = environ["wsgi.input"].read(min(_BLOCK, wanted - len(body)))
            if not block:
                break
            body += block
    except OSError:
        raise error(400, "SIZE_INVALID", "the body was cut off") from None
    if len(body) > limit:
        raise _too_large(limit)
    if declared is not None and len(body) < wanted:
        raise error(400, "SIZE_INVALID", "the body is shorter than its Content-Length")
    return bytes(body)


def _too_large(limit: int) -> bottle.HTTPResponse:
    return error(413, "SIZE_INVALID", f"the body has more than {limit} bytes")
