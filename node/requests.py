"""What a request asks the mirror for, read from its path and headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.names import parse_scope

Kind = Literal["manifests", "blobs", "tags", "referrers"]

# A scope may hold components with these names: the last one counts.
_PATH = re.compile(r"(?P<scope>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<name>[^/]+)\Z")
_PASSED_ON = ("Accept", "If-None-Match", "User-Agent")


@dataclass(frozen=True, slots=True)
class Resource:
    """`/v2/<scope>/<kind>/<name>`."""

    scope: str
    kind: Kind
    name: str


def parse_path(path: str) -> Resource | None:
    """What follows /v2/ in the path of a pull, None if it is something else. Raises InvalidName."""
    found = _PATH.match(path)
    if found is None or (found["kind"] == "tags" and found["name"] != "list"):
        return None
    kind: Any = found["kind"]
    return Resource(parse_scope(found["scope"]), kind, found["name"])


def kind_of(path: str) -> str:
    """The kind of request below /v2/ for metrics: manifests, blobs, tags, referrers, or other."""
    found = _PATH.match(path.removeprefix("/v2/"))
    return found["kind"] if found else "other"


def header(environ: Mapping[str, Any], name: str) -> str | None:
    """A header's value, bytes read as Latin-1 (PEP 3333); Bottle's own view fails where it is not UTF-8."""
    value: str | None = environ.get("HTTP_" + name.upper().replace("-", "_"))
    return value


def passed_on(environ: Mapping[str, Any]) -> dict[str, str]:
    """The headers that go on to the registry beside Authorization."""
    return {name: value for name in _PASSED_ON if (value := header(environ, name)) is not None}
