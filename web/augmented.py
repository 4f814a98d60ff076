"""Parsed and augmented manifests, cached, as many nodes request one image at once.

Parsing and serialising a manifest takes more processor time than requesting it from the registry. The result
depends only on the manifest's bytes and the ids, so it stays valid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from core.digest import Digest
from core.manifests.augment import augment
from core.manifests.manifest import Image, Index, Other, digest_of, parse_manifest

MAX_CACHED = 512
MAX_CACHED_BYTES = 32 * 1024
"""An image of a hundred layers has some 20 KiB; larger ones are rare and not cached."""


@dataclass(frozen=True, eq=False)
class ImageManifest:
    """An image's manifest: bytes, digest, content, and its layers' digests.

    Compared by identity.
    """

    body: bytes
    digest: Digest
    image: Image
    layers: tuple[Digest, ...]


@dataclass(frozen=True)
class Augmented:
    """A body to send, and its digest."""

    body: bytes
    digest: Digest


def parse(body: bytes, content_type: str) -> ImageManifest | Index | Other:
    """Parse a manifest. Raises ManifestInvalid."""
    return (_parse_cached if len(body) <= MAX_CACHED_BYTES else _parse)(body, content_type)


def with_ids(manifest: ImageManifest, ids: Mapping[Digest, str]) -> Augmented:
    """Return the manifest with the ids of its layers.

    Raises ManifestInvalid if it was pushed with an id that cannot be removed.
    """
    own = tuple(map(ids.get, manifest.layers))
    return (_augment_cached if len(manifest.body) <= MAX_CACHED_BYTES else _augment)(manifest, own)


def _parse(body: bytes, content_type: str) -> ImageManifest | Index | Other:
    manifest = parse_manifest(body, content_type)
    if not isinstance(manifest, Image):
        return manifest
    layers = tuple(layer.digest for layer in manifest.layers)
    return ImageManifest(body, digest_of(body), manifest, layers)


def _augment(manifest: ImageManifest, ids: tuple[str | None, ...]) -> Augmented:
    layers = manifest.image.layers
    known = {layer.digest: one for layer, one in zip(layers, ids, strict=True) if one is not None}
    body = augment(manifest.body, manifest.image, known)
    return Augmented(body, manifest.digest if body is manifest.body else digest_of(body))


_parse_cached = lru_cache(maxsize=MAX_CACHED)(_parse)
_augment_cached = lru_cache(maxsize=MAX_CACHED)(_augment)
