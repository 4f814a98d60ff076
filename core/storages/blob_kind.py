"""Tells layers from manifests and configs by their first bytes: a registry's storage keeps all alike."""

from __future__ import annotations

import codecs
import re

HEAD_BYTES = 512
"""What has to be read of a blob to tell: a tar's first header."""

_TAR_MAGIC = b"ustar"
_TAR_MAGIC_AT = 257
_JSON_OBJECT = re.compile(r"\s*\{\s*(?:[\"}]|\Z)")


def looks_like_layer(head: bytes) -> bool:
    """Whether a blob that begins with `head`, its first 512 bytes or all of it, is a layer.

    It is unless it is empty, or a JSON object, as manifests, configs, and the attestations that in-toto and
    cosign put in the place of layers are. So tars count, whether plain or packed by gzip, zstd or anything
    else, and so does whatever else artifacts have for layers. A tar whose first file has a name like JSON
    is known by its magic (POSIX.1, ustar).
    """
    if not head:
        return False
    if head[_TAR_MAGIC_AT : _TAR_MAGIC_AT + len(_TAR_MAGIC)] == _TAR_MAGIC:
        return True
    try:
        # The last character may be cut in two.
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return True
    return _JSON_OBJECT.match(text.removeprefix("\ufeff")) is None
