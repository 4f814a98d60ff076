"""Manifests with ids in them, kept ready: many nodes ask for one image at once.

Reading a manifest and writing it again takes more processor time than asking the registry for it. What comes
out depends on nothing but the manifest's bytes and the ids, so it can be kept for good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from core.digest import Digest
from core.manifests.augment import augment
from core.manifests.manifest import Image, Index, Other, digest_of, parse_manifest

MOST_KEPT = 512
LARGEST_KEPT_BYTES = 32 * 1024
"""An image of a hundred layers has some 20 KiB; what is larger is rare, and made anew each time."""


@dataclass(frozen=True, eq=False)
class ReadImage:
    """An image's manifest, its digest, what it says, and its layers' digests as `sha256:<hex>`.

    Two are equal only if they are one.
    """

    body: bytes
    digest: Digest
    image: Image
    layers: tuple[str, ...]


@dataclass(frozen=True)
class Augmented:
    """Bytes to send, and their digest."""

    body: bytes
    digest: Digest


def read_manifest(body: bytes, content_type: str) -> ReadImage | Index | Other:
    """What a manifest says. Raises ManifestInvalid."""
    return (_read_kept if len(body) <= LARGEST_KEPT_BYTES else _read)(body, content_type)


def with_ids(read: ReadImage, ids: Mapping[str, str]) -> Augmented:
    """The manifest with those of the ids that are of its layers; they are by `sha256:<hex>`.

    Raises ManifestInvalid where one that was pushed with it cannot be taken out.
    """
    own = tuple(map(ids.get, read.layers))
    return (_put_kept if len(read.body) <= LARGEST_KEPT_BYTES else _put)(read, own)


def _read(body: bytes, content_type: str) -> ReadImage | Index | Other:
    manifest = parse_manifest(body, content_type)
    if not isinstance(manifest, Image):
        return manifest
    layers = tuple(str(layer.digest) for layer in manifest.layers)
    return ReadImage(body, digest_of(body), manifest, layers)


def _put(read: ReadImage, ids: tuple[str | None, ...]) -> Augmented:
    layers = read.image.layers
    known = {layer.digest: one for layer, one in zip(layers, ids, strict=True) if one is not None}
    body = augment(read.body, read.image, known)
    return Augmented(body, read.digest if body is read.body else digest_of(body))


_read_kept = lru_cache(maxsize=MOST_KEPT)(_read)
_put_kept = lru_cache(maxsize=MOST_KEPT)(_put)
