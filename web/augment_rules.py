"""Rules for manifest requests: the manifest, whether ids are added, and the platform."""

from __future__ import annotations

from core.digest import Digest
from core.errors import InvalidName
from core.manifests.media_types import INDEXES
from core.manifests.platform import Platform
from core.names import parse_reference, parse_scope

_MIDDLE = "/manifests/"
_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def parse_path(rest: str) -> tuple[str, str | Digest] | None:
    """Return scope and reference of `<scope>/manifests/<reference>`, None for another path.

    A scope may have a component `manifests`: the last one counts. Raises InvalidName.
    """
    scope, middle, reference = rest.rpartition(_MIDDLE)
    return (parse_scope(scope), parse_reference(reference)) if middle else None


def wants_ids(reference: str | Digest, accept: str | None, explicit: str | None) -> bool:
    """Return whether to augment the answer.

    `explicit`, the value of `?rbtorrent=`, decides. Without it, clients that verify digests get the
    registry's bytes: requests by digest, and clients that accept a manifest list or an image index, as
    container engines do. Raises InvalidName.
    """
    if explicit:
        try:
            return _BOOLEANS[explicit.lower()]
        except KeyError:
            raise InvalidName("value of rbtorrent", explicit, "expected true or false") from None
    return not isinstance(reference, Digest) and not _accepts_indexes(accept or "")


def requested_platform(explicit: str | None, default: str) -> Platform:
    """Return the platform of `?platform=`, or the configured one. Raises InvalidName."""
    return Platform.parse(explicit or default)


def _accepts_indexes(accept: str) -> bool:
    for one in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in one.split(";"))
        if media_type in INDEXES and not any(_is_zero_weight(parameter) for parameter in parameters):
            return True
    return False


def _is_zero_weight(parameter: str) -> bool:
    """Return whether it is `q=0`, which means "not acceptable" (RFC 9110, 12.4.2)."""
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and value.strip() in ("0", "0.", "0.0", "0.00", "0.000")
