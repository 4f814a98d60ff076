"""Augment a manifest with rbtorrent ids, and choose the image of an index. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from core.digest import Digest
from core.errors import ManifestInvalid
from core.manifests.manifest import ChildDescriptor, Image, Index, LayerDescriptor, has_other_digest
from core.manifests.media_types import IMAGES, INDEXES
from core.manifests.platform import Platform

FIELD = "rbtorrent_id"
_INDENT = re.compile(rb"\s*\{\r?\n([ \t]+)")
_ESCAPED = re.compile(rb"\\u00([0-9A-Fa-f]{2})")
_SPACED = re.compile(rb'\s*\{\s*"[^"]*": ')


def augment(body: bytes, image: Image, ids: Mapping[Digest, str]) -> bytes:
    """Return `body` with `rbtorrent_id` as the last field of each brewable layer that has an id in `ids`.

    `image` is the parsed `body`. The order of fields and the formatting are kept. An `rbtorrent_id` in
    `body` is removed: the pusher of the image wrote it, and it may name any torrent. Returns `body` itself
    if nothing changes, or if the manifest cannot be serialised again in the same way. Raises ManifestInvalid
    if an id would have to be removed from that.
    """
    before: list[dict[str, Any]] = image.document.get("layers") or []
    layers = iter(image.layers)
    after = [_with_id(one, None if has_other_digest(one) else _id_of(next(layers), ids)) for one in before]
    if after == before:
        return body
    found = _INDENT.match(body)
    indent = found[1].decode() if found else None
    colon = ": " if _SPACED.match(body) else ":"
    comma = ", " if colon == ": " and indent is None else ","
    manifest = {**image.document, "layers": after}
    try:
        # 1e999 is a number in JSON, but not in Python; half a surrogate pair cannot be encoded.
        text = json.dumps(
            manifest, ensure_ascii=False, allow_nan=False, indent=indent, separators=(comma, colon)
        )
        return text.encode()
    except (ValueError, RecursionError):
        if names_an_id(body):
            raise ManifestInvalid(f"{FIELD} was pushed with it, and cannot be removed") from None
        return body


def names_an_id(body: bytes) -> bool:
    """Return whether a client may read a field of `body`, which need not be JSON, as `rbtorrent_id`: letters
    may be escaped, and Go ignores their case.
    """
    return FIELD.encode() in _ESCAPED.sub(lambda sign: bytes.fromhex(sign[1].decode()), body).lower()


def pick(index: Index, platform: Platform) -> list[ChildDescriptor]:
    """Return the children that may contain the image for `platform`, the likeliest first.

    First images for it, then those for another variant, if it names none; then indexes, then images without
    a platform.
    """
    fitting = [
        child
        for child in index.children
        if child.media_type in (*IMAGES, *INDEXES)
        and not child.attestation
        and (child.platform is None or platform.takes(child.platform))
    ]

    def rank(child: ChildDescriptor) -> int:
        if child.media_type in INDEXES:
            return 2
        if child.platform is None:
            return 3
        return 0 if child.platform.normal == platform.normal else 1

    return sorted(fitting, key=rank)


def _id_of(layer: LayerDescriptor, ids: Mapping[Digest, str]) -> str | None:
    return ids.get(layer.digest) if layer.brewable else None


def _with_id(descriptor: dict[str, Any], rbtorrent_id: str | None) -> dict[str, Any]:
    plain = {name: value for name, value in descriptor.items() if name.lower() != FIELD}
    return plain if rbtorrent_id is None else {**plain, FIELD: rbtorrent_id}
