"""The path of a request as it came, percent-decoded."""

from __future__ import annotations

import bottle


def raw_rest(prefix: str) -> str:
    """What follows `prefix` in the path of the request at hand, a character a byte.

    Bottle's own reading of a path leaves out bytes that are no UTF-8, so that another name could come out.
    """
    path: str = bottle.request.environ["bottle.raw_path"]
    return path.removeprefix(prefix)
