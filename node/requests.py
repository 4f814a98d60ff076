"""The path and headers of requests to the mirror."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.digest import Digest
from core.errors import InvalidName
from core.names import parse_scope

Kind = Literal["manifests", "blobs", "tags", "referrers"]

# A scope may contain components with these names: the last one counts.
_PATH = re.compile(r"(?P<scope>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<name>[^/]+)\Z")
# OCI image-spec, descriptor.md#digests.
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]{32,256}\Z")
_FORWARDED = ("Accept", "If-None-Match", "User-Agent")


@dataclass(frozen=True, slots=True)
class Resource:
    """`/v2/<scope>/<kind>/<name>`."""

    scope: str
    kind: Kind
    name: str


def parse_path(path: str) -> Resource | None:
    """Return the resource named after /v2/ in the path, None if it is not a pull. Raises InvalidName."""
    found = _PATH.match(path)
    if found is None or (found["kind"] == "tags" and found["name"] != "list"):
        return None
    kind: Any = found["kind"]
    return Resource(parse_scope(found["scope"]), kind, found["name"])


def parse_any_digest(name: str) -> Digest | str:
    """Return a digest, as text if its algorithm is not SHA-256. Raises InvalidName."""
    if name.startswith(Digest.PREFIX):
        return Digest.parse(name)
    if not _DIGEST.match(name):
        raise InvalidName("digest", name, "expected an algorithm, a colon, and the encoded digest")
    return name


def kind_of(path: str) -> str:
    """Return the kind of a request below /v2/ for metrics: manifests, blobs, tags, referrers, or other."""
    found = _PATH.match(path.removeprefix("/v2/"))
    return found["kind"] if found else "other"


def header(environ: Mapping[str, Any], name: str) -> str | None:
    """Return a header's value, read as Latin-1 (PEP 3333); Bottle's own method fails if it is not UTF-8."""
    value: str | None = environ.get("HTTP_" + name.upper().replace("-", "_"))
    return value


def forwarded_headers(environ: Mapping[str, Any]) -> dict[str, str]:
    """Return the headers that are forwarded to the registry in addition to Authorization."""
    return {name: value for name in _FORWARDED if (value := header(environ, name)) is not None}
