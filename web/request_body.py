"""A request's body, as far as it is not too long."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bottle

from web.answers import error

_BLOCK = 64 * 1024


def read_body(environ: Mapping[str, Any], limit: int) -> bytes:
    """All of the body, `limit` bytes at most.

    Raises bottle.HTTPResponse: 413 if there is more, without reading on; 400 if there is less than was
    promised; 411 if the server cannot tell where the body ends. Bottle's own reader is not used: it decodes
    chunks that servers have decoded already.
    """
    declared = environ.get("CONTENT_LENGTH") or None
    if declared is not None and not (declared.isascii() and declared.isdigit()):
        raise error(400, "SIZE_INVALID", "Content-Length is no number")
    if declared is None and not environ.get("wsgi.input_terminated"):
        if "HTTP_TRANSFER_ENCODING" in environ:
            raise error(411, "SIZE_INVALID", "a Content-Length is needed")
        return b""
    if declared is not None and (len(declared) > 18 or int(declared) > limit):
        raise too_large(limit)
    wanted = limit + 1 if declared is None else int(declared)
    body = bytearray()
    try:
        while len(body) < wanted:
            block = environ["wsgi.input"].read(min(_BLOCK, wanted - len(body)))
            if not block:
                break
            body += block
    except OSError:
        raise error(400, "SIZE_INVALID", "the body broke off") from None
    if len(body) > limit:
        raise too_large(limit)
    if declared is not None and len(body) < wanted:
        raise error(400, "SIZE_INVALID", "the body is shorter than its Content-Length")
    return bytes(body)


def too_large(limit: int) -> bottle.HTTPResponse:
    """The answer to a body of more than `limit` bytes."""
    return error(413, "SIZE_INVALID", f"the body has more than {limit} bytes")
