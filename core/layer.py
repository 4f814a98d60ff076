"""Layers: a value type, and the rule for which blobs are brewed."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from typing import Literal

from core.digest import Digest

HEAD_BYTES = 512
"""How much of a blob `looks_like_layer` needs: a tar's first header."""

WhyNotBrewed = Literal["empty", "foreign", "document"]

_FOREIGN_MARKS = ("foreign", "nondistributable")
_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257
_JSON_OBJECT = re.compile(r"\s*\{\s*(?:[\"}]|\Z)")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer, the repositories known to hold it (`scopes`, best first), and its size.

    `scopes` may be empty, for a row inserted by hand. `size` is the descriptor's, in bytes, None if unknown.
    """

    digest: Digest
    scopes: tuple[str, ...] = ()
    size: int | None = None


def why_not_brewed(media_type: str, size: int | None, *, has_urls: bool = False) -> WhyNotBrewed | None:
    """Return why no torrent is made of a blob that a manifest lists as a layer; None if one is made.

    An empty blob has nothing to share. The bytes of a foreign layer are elsewhere: its descriptor has
    `urls`, or its media type says that it must not be distributed. Documents (media types that end in
    `json`: attestations, signatures, configs) are small, and not pulled along with the image. Everything
    else is brewed, whatever its type: charts, model weights.
    """
    if size == 0:
        return "empty"
    name = media_type.partition(";")[0].strip().lower()
    if has_urls or any(mark in name for mark in _FOREIGN_MARKS):
        return "foreign"
    if name.endswith("json"):
        return "document"
    return None


def looks_like_layer(head: bytes) -> bool:
    """Apply the same rule to a blob in a registry's storage, which keeps no media types.

    `head` is the blob's first 512 bytes, or all of it. Empty blobs and JSON objects (manifests, configs,
    attestations, signatures) are not layers, everything else is. A tar whose first file has a name that looks
    like JSON is recognised by its magic (POSIX.1, ustar).
    """
    if not head:
        return False
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + len(_TAR_MAGIC)] == _TAR_MAGIC:
        return True
    try:
        # The last character may be truncated.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return True
    return _JSON_OBJECT.match(text.removeprefix("\ufeff")) is None
