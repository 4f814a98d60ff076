"""Scopes, tags and references: names in a registry's URLs, and globs over scopes.

The grammar is that of the OCI distribution-spec (spec.md#pulling-manifests), which is the one of
docker/distribution's `reference` package.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from core.digest import Digest
from core.errors import InvalidName

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_SCOPE = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*\Z")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
_PATTERN = re.compile(r"[a-z0-9._/*?\[\]!-]{1,255}\Z")
MAX_SCOPE = 255


def parse_scope(text: object) -> str:
    """Return `text` if it is a repository's name of at most 255 characters. Raises InvalidName."""
    if not isinstance(text, str):
        raise InvalidName("scope", text, "expected text")
    # The length first: only short texts are matched against the grammar.
    if not 0 < len(text) <= MAX_SCOPE:
        raise InvalidName("scope", text, f"expected 1 to {MAX_SCOPE} characters")
    if not _SCOPE.match(text):
        raise InvalidName(
            "scope",
            text,
            "expected lower-case path components, as in library/ubuntu, without registry or tag",
        )
    return text


def parse_tag(text: object) -> str:
    """Return `text` if it is a tag. Raises InvalidName."""
    if not isinstance(text, str) or not _TAG.match(text):
        raise InvalidName("tag", text, "expected a letter, digit or _, then up to 127 of A-Za-z0-9._-")
    return text


def parse_reference(text: object) -> str | Digest:
    """Parse a digest or a tag. Raises InvalidName."""
    if isinstance(text, str) and ":" in text:
        return Digest.parse(text)
    return parse_tag(text)


def parse_image(text: str) -> tuple[str, str | Digest]:
    """Parse `scope:tag` or `scope@sha256:…`. Raises InvalidName."""
    separator = "@" if "@" in text else ":"
    scope, found, reference = text.rpartition(separator)
    if not found:
        raise InvalidName("image", text, "expected scope:tag or scope@sha256:...")
    return parse_scope(scope), Digest.parse(reference) if separator == "@" else parse_tag(reference)


def parse_digest_or_image(text: str) -> Digest | tuple[str, str | Digest]:
    """Parse `sha256:…` for a layer, or the name of an image. Raises InvalidName."""
    if text.startswith(Digest.PREFIX):
        return Digest.parse(text)
    if not any(sign in text for sign in ":@"):
        raise InvalidName("digest or image", text, "expected sha256:... or scope:tag")
    return parse_image(text)


def parse_pattern(text: object) -> str:
    """Return `text` if it is a scope or a glob over scopes (`*`, `?`, `[…]`). Raises InvalidName."""
    if isinstance(text, str) and is_glob(text):
        if _PATTERN.match(text):
            return text
        raise InvalidName("scope pattern", text, "expected a lower-case scope with *, ? or [...]")
    return parse_scope(text)


def is_glob(pattern: str) -> bool:
    """Return whether `pattern` has a wildcard, and so may match several scopes."""
    return any(sign in pattern for sign in "*?[")


def matches(scope: str, pattern: str) -> bool:
    """Return whether `pattern` (a scope, or a glob whose `*` matches slashes) matches `scope`."""
    return fnmatchcase(scope, pattern)
