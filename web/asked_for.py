"""What a request for a manifest asks for: of which repository, which one, with ids or without, for whom."""

from __future__ import annotations

from core.digest import Digest
from core.errors import InvalidName
from core.manifests.media_types import INDEXES
from core.manifests.platform import Platform
from core.names import parse_reference, parse_scope

_MIDDLE = "/manifests/"
_YES_OR_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse_path(rest: str) -> tuple[str, str | Digest] | None:
    """Scope and reference of `<scope>/manifests/<reference>`; None if the path has no such form.

    A scope may have a component `manifests`: the last one counts. Raises InvalidName.
    """
    scope, middle, reference = rest.rpartition(_MIDDLE)
    return (parse_scope(scope), parse_reference(reference)) if middle else None


def wants_ids(reference: str | Digest, accept: str | None, said: str | None) -> bool:
    """Whether the answer is to be augmented.

    `said` is `?rbtorrent=`, which decides. Without it, who names a manifest list or an image index in
    Accept is a container engine, and verifies digests: it gets the registry's bytes. So does whoever asks
    by digest. Raises InvalidName.
    """
    if said:
        try:
            return _YES_OR_NO[said.lower()]
        except KeyError:
            raise InvalidName("value of rbtorrent", said, "expected true or false") from None
    return not isinstance(reference, Digest) and not _accepts_indexes(accept or "")


def wanted_platform(said: str | None, default: str) -> Platform:
    """The platform of `?platform=`, or else the configured one. Raises InvalidName."""
    return Platform.parse(said or default)


def is_current(if_none_match: str | None, etag: str) -> bool:
    """Whether If-None-Match names `etag`: compared weakly (RFC 9110, 13.1.2), and without quotes too, as
    docker/distribution does.
    """
    named = [one.strip().removeprefix("W/").strip('"') for one in (if_none_match or "").split(",")]
    return named == ["*"] or etag.strip('"') in named


def _accepts_indexes(accept: str) -> bool:
    for one in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in one.split(";"))
        if media_type in INDEXES and not any(_is_zero(parameter) for parameter in parameters):
            return True
    return False


def _is_zero(parameter: str) -> bool:
    """Whether it is the weight that means "not this" (RFC 9110, 12.4.2)."""
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip() in ("0", "0.", "0.0", "0.00", "0.000")
