"""Parse manifests: docker v2 and OCI images, manifest lists and indexes. Pure, for untrusted input.

docker/distribution, docs/spec/manifest-v2-2.md; OCI image-spec, manifest.md and image-index.md. A manifest
is accepted as a whole or not at all: one invalid digest, and nothing in it is trusted. Blobs and manifests
with a valid digest that is not SHA-256, such as SHA-512, are left out: they cannot be brewed or fetched here.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from core.digest import Digest
from core.errors import InvalidName, ManifestInvalid
from core.layer import WhyNotBrewed, why_not_brewed
from core.manifests.media_types import (
    ALL_MANIFESTS,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    IMAGES,
    INDEXES,
)
from core.manifests.platform import Platform

MAX_SIZE = 2**63 - 1
"""In bytes: the largest signed 64-bit integer, as in Go's registries and the database."""

_SCHEMA1 = (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED)
# Content types that do not identify a manifest.
_VAGUE = ("", "application/json", "application/octet-stream", "text/plain")
# BuildKit's attestations: manifests of an index that are not images.
_ATTESTATION = ("vnd.docker.reference.type", "attestation-manifest")
# The fields that are read here, in any kind of manifest.
_OF_MANIFESTS = ("schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers")
_OF_DESCRIPTORS = ("mediaType", "digest", "size", "urls", "annotations", "platform")
_OF_PLATFORMS = ("os", "architecture", "variant")
# OCI image-spec, descriptor.md#digests.
_OTHER_DIGEST = re.compile(r"(?!sha256:)[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]{32,256}\Z")


@dataclass(frozen=True, slots=True)
class BlobDescriptor:
    """A blob in a manifest; `size` is in bytes."""

    digest: Digest
    size: int
    media_type: str


@dataclass(frozen=True, slots=True)
class LayerDescriptor(BlobDescriptor):
    """A layer. With `urls` in its descriptor its bytes are elsewhere, not in the registry."""

    has_urls: bool

    @property
    def why_not_brewed(self) -> WhyNotBrewed | None:
        """Why no torrent is made of this layer; None if one is."""
        return why_not_brewed(self.media_type, self.size, has_urls=self.has_urls)

    @property
    def brewable(self) -> bool:
        """Whether a torrent is made of this layer."""
        return self.why_not_brewed is None


@dataclass(frozen=True, slots=True)
class ChildDescriptor:
    """A manifest in an index. `platform` is None if absent or unusable."""

    digest: Digest
    media_type: str
    size: int
    platform: Platform | None
    attestation: bool


@dataclass(frozen=True, slots=True)
class Image:
    """An image: its layers from the base up, repeated if the manifest repeats them.

    `config` is None if its digest is not SHA-256. `document` is the parsed JSON object, with its fields in
    order; do not change it.
    """

    media_type: str
    config: BlobDescriptor | None
    layers: tuple[LayerDescriptor, ...]
    document: dict[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Index:
    """A manifest list or an image index."""

    media_type: str
    children: tuple[ChildDescriptor, ...]
    document: dict[str, Any] = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Other:
    """A manifest without layers to brew: schema 1, or an unknown kind."""

    media_type: str


def parse_manifest(body: bytes, content_type: str) -> Image | Index | Other:
    """Parse `body`, whose kind is determined by the header's `content_type` and by its fields.

    Registries may return other types than requested, and proxies change content types: if the header is
    vague or empty, the `mediaType` field decides, then the other fields. Raises only ManifestInvalid.
    """
    header_type = content_type.partition(";")[0].strip().lower()
    if header_type in _SCHEMA1 or header_type not in (*ALL_MANIFESTS, *_VAGUE):
        return Other(header_type)
    document = _load(body)
    media_type = _media_type(document, header_type)
    if media_type not in ALL_MANIFESTS:
        return Other(media_type)
    version = document.get("schemaVersion")
    if type(version) is not int or version != 2:
        raise ManifestInvalid("schemaVersion is not 2")
    if media_type in INDEXES:
        # Clients disagree about the kind of a body that is both (CVE-2021-41190).
        if document.get("layers") is not None or document.get("config") is not None:
            raise ManifestInvalid("an index with layers")
        children = (
            _child(entry, f"manifests[{number}]") for number, entry in enumerate(_list(document, "manifests"))
        )
        return Index(media_type, tuple(child for child in children if child), document)
    if document.get("manifests") is not None:
        raise ManifestInvalid("an image with manifests")
    named = (_layer(entry, f"layers[{number}]") for number, entry in enumerate(_list(document, "layers")))
    layers = tuple(layer for layer in named if layer)
    _check_repeated(layers)
    config = _blob(document.get("config"), "config")
    return Image(media_type, BlobDescriptor(*config) if config else None, layers, document)


def has_other_digest(descriptor: dict[str, Any]) -> bool:
    """Return whether the digest of a descriptor is valid, but not SHA-256."""
    digest = descriptor.get("digest")
    return isinstance(digest, str) and _OTHER_DIGEST.match(digest) is not None


def digest_of(body: bytes) -> Digest:
    """Return the digest of a manifest's exact bytes."""
    return Digest(hashlib.sha256(body).hexdigest())


def _load(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_refuse_constant
        )
    except UnicodeDecodeError:
        raise ManifestInvalid("not UTF-8") from None
    except RecursionError:
        raise ManifestInvalid("nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ManifestInvalid(f"not JSON: {error.msg} at character {error.pos}") from None
    except ValueError:  # a number of thousands of digits
        raise ManifestInvalid("not JSON: a number too long") from None
    if not isinstance(document, dict):
        raise ManifestInvalid("not a JSON object")
    _check_spelling(document, _OF_MANIFESTS, "the manifest")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build an object. Repeated keys are refused: parsers differ in which of them counts."""
    loaded = dict(pairs)
    if len(loaded) != len(pairs):
        raise ManifestInvalid("a key appears twice in one object")
    return loaded


def _check_spelling(document: dict[str, Any], fields: tuple[str, ...], where: str) -> None:
    """Refuse other spellings of known fields. Registries in Go accept `Layers`, and even `layer\u017f`, for
    `layers`, and the last one counts: they may have checked other layers than those parsed here.
    """
    exact = {field.casefold(): field for field in fields}
    for key in document:
        if exact.get(key.casefold(), key) != key:
            raise ManifestInvalid(
                f"{where} has a field that differs from {exact[key.casefold()]} only in its letters"
            )


def _refuse_constant(name: str) -> NoReturn:
    raise ManifestInvalid(f"{name} is not JSON")


def _media_type(document: dict[str, Any], header_type: str) -> str:
    """Return the media type: by the header, the field, or the other fields."""
    own = document.get("mediaType")
    if own is None:  # absent or null, as Go reads it
        own = ""
    if not isinstance(own, str) or len(own) > 255 or not _is_plain(own):
        raise ManifestInvalid("mediaType is not a media type")
    if header_type in ALL_MANIFESTS:
        if own and _kind(own) != _kind(header_type):
            raise ManifestInvalid(f"its Content-Type is {header_type}, but its mediaType is {own}")
        return own or header_type
    if own:
        return own
    if document.get("schemaVersion") == 1:
        return DOCKER_SCHEMA1
    # Docker's manifests always have a media type; OCI's need not.
    if "manifests" in document:
        return INDEXES[-1]
    if "layers" in document or "config" in document:
        return IMAGES[-1]
    raise ManifestInvalid("it has neither layers nor manifests")


def _kind(media_type: str) -> str:
    return "image" if media_type in IMAGES else "index" if media_type in INDEXES else media_type


def _list(document: dict[str, Any], name: str) -> list[Any]:
    """Return a list of the document. Absent and null are empty lists, as Go reads and writes them."""
    found = document.get(name)
    if found is None:
        return []
    if not isinstance(found, list):
        raise ManifestInvalid(f"{name} is not a list")
    return found


def _blob(entry: object, where: str) -> tuple[Digest, int, str] | None:
    """Return digest, size and media type of a descriptor (OCI descriptor.md); None for another digest."""
    if not isinstance(entry, dict):
        raise ManifestInvalid(f"{where} is not an object")
    _check_spelling(entry, _OF_DESCRIPTORS, where)
    if has_other_digest(entry):
        return None
    try:
        digest = Digest.parse(entry.get("digest"))
    except InvalidName as error:
        raise ManifestInvalid(f"{where}.digest: {error}") from None
    size = entry.get("size")
    # bool is an int in Python, but true is not a number in JSON.
    if type(size) is not int or not 0 <= size <= MAX_SIZE:
        raise ManifestInvalid(f"{where}.size is not a number of bytes")
    media_type = entry.get("mediaType")
    if not isinstance(media_type, str) or not 0 < len(media_type) < 256 or not _is_plain(media_type):
        raise ManifestInvalid(f"{where}.mediaType is not a media type")
    return digest, size, media_type


def _layer(entry: object, where: str) -> LayerDescriptor | None:
    blob = _blob(entry, where)
    if blob is None:
        return None
    urls = entry.get("urls") if isinstance(entry, dict) else None
    if urls is not None and not isinstance(urls, list):
        raise ManifestInvalid(f"{where}.urls is not a list")
    return LayerDescriptor(*blob, has_urls=bool(urls))


def _check_repeated(layers: tuple[LayerDescriptor, ...]) -> None:
    """Raise ManifestInvalid if a repeated layer has different sizes."""
    sizes: dict[Digest, int] = {}
    for number, layer in enumerate(layers):
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise ManifestInvalid(f"layers[{number}] was listed before with another size")


def _child(entry: object, where: str) -> ChildDescriptor | None:
    blob = _blob(entry, where)
    if blob is None:
        return None
    digest, size, media_type = blob
    descriptor = entry if isinstance(entry, dict) else {}
    annotations = descriptor.get("annotations")
    name, value = _ATTESTATION
    attestation = isinstance(annotations, dict) and annotations.get(name) == value
    return ChildDescriptor(
        digest, media_type, size, _platform(descriptor.get("platform"), where), attestation
    )


def _platform(value: object, where: str) -> Platform | None:
    if not isinstance(value, dict):
        return None
    _check_spelling(value, _OF_PLATFORMS, f"{where}.platform")
    names = [value.get(key) for key in _OF_PLATFORMS]
    try:
        return Platform.parse("/".join(str(name) for name in names if name))
    except InvalidName:
        return None


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable()
