"""How much of an image is brewed, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from sqlalchemy import Engine

from core.digest import Digest
from core.errors import InvalidName, ManifestInvalid, RemoteError
from core.manifests.manifest import Image, LayerDescriptor, parse_manifest
from core.manifests.platform import Platform
from core.registry.client import RegistryClient
from core.registry.image_tree import TreeReader
from sql.layers import LayerRecord, find_layers
from sql.tables import Tables
from sql.transaction import reading

_MAX_CONFIG_BYTES = 4 * 1024 * 1024
"""docker/distribution takes no larger manifest either."""


@dataclass(frozen=True)
class ImageLayer:
    """A layer of an image. `state` is that of the queue, `unknown`, or `not brewed here` if it cannot be."""

    digest: str
    size: int
    state: str
    rbtorrent_id: str | None = None
    why: str | None = None


@dataclass(frozen=True)
class Coverage:
    """How much of an image is brewed, for all its platforms; each layer counts once.

    `missing` are manifests that the registry does not have. Of an index, `platforms` are those examined,
    `left_out` those not examined, and `absent` those that were requested but have no image.
    """

    image: str
    layers: tuple[ImageLayer, ...]
    missing: tuple[str, ...] = ()
    platforms: tuple[Platform, ...] = ()
    left_out: tuple[Platform, ...] = ()
    absent: tuple[Platform, ...] = ()

    @property
    def brewed(self) -> tuple[ImageLayer, ...]:
        return tuple(layer for layer in self.layers if layer.state == "brewed")

    @property
    def lacking(self) -> tuple[ImageLayer, ...]:
        """Layers that can be brewed and are not."""
        return tuple(layer for layer in self.layers if layer.state not in ("brewed", "not brewed here"))

    @property
    def whole(self) -> bool:
        """Whether everything that can be brewed is brewed, for the platforms examined."""
        return not (self.lacking or self.missing or self.absent)

    @property
    def hopeless(self) -> bool:
        """Whether all layers that are missing were set aside, so that waiting does not help."""
        return bool(self.lacking) and all(layer.state == "set aside" for layer in self.lacking)

    def as_json(self) -> dict[str, object]:
        return {
            "image": self.image,
            "whole": self.whole,
            "layers_total": len(self.layers),
            "layers_brewed": len(self.brewed),
            "bytes_total": sum(layer.size for layer in self.layers),
            "bytes_brewed": sum(layer.size for layer in self.brewed),
            "missing_manifests": list(self.missing),
            "platforms": [str(platform) for platform in self.platforms],
            "platforms_left_out": [str(platform) for platform in self.left_out],
            "platforms_absent": [str(platform) for platform in self.absent],
            "layers": [asdict(layer) for layer in self.layers],
        }

    def lines(self) -> Iterator[str]:
        """Yield a line for each layer, the platforms of an index, and the share that is brewed."""
        for layer in self.layers:
            yield f"{layer.digest}  {layer.size:>12}  {layer.rbtorrent_id or _lacks(layer)}"
        for digest in self.missing:
            yield f"{digest}  {'?':>12}  a manifest that the registry does not have"
        if self.platforms or self.left_out:
            yield f"platforms {_names(self.platforms)}, left out {_names(self.left_out)}"
        for platform in self.absent:
            yield f"no image for {platform}"
        brewable = (*self.brewed, *self.lacking)
        other = len(self.layers) - len(brewable)
        total = sum(layer.size for layer in brewable)
        done = sum(layer.size for layer in self.brewed)
        share = 100 * done / total if total else 100.0 * self.whole
        yield (
            f"{self.image}: brewed {len(self.brewed)} of {len(brewable)} layers, "
            f"{done} of {total} bytes ({share:.1f} %)"
            f"{f', {other} not brewable' if other else ''}"
        )


def show_image(
    engine: Engine,
    tables: Tables,
    registry: RegistryClient,
    scope: str,
    reference: str | Digest,
    *,
    asked: tuple[Platform, ...] = (),
    usual: tuple[Platform, ...] = (),
    now: int,
) -> Coverage:
    """Return the coverage of the image at `scope:reference`, or of the images of an index there.

    Of an index, only the images for the `asked` platforms are examined, all of which must exist; or else
    those for the `usual` platforms, of which one is enough; or else all. An image outside an index is always
    examined; its platform is read from its configuration, if any platform is `asked` for. Raises RemoteError
    if a manifest cannot be read, DatabaseDown.
    """
    layers: dict[Digest, LayerDescriptor] = {}
    missing: dict[str, None] = {}
    platforms: dict[Platform, None] = {}
    left_out: dict[Platform, None] = {}
    unnamed: list[Digest] = []
    for manifest in TreeReader(registry, scope, platforms=asked or usual).read(reference):
        layers.update((layer.digest, layer) for layer in manifest.layers)
        missing.update((str(digest), None) for digest in manifest.unread)
        left_out.update((platform, None) for platform in manifest.left_out)
        if manifest.platform is not None:
            platforms[manifest.platform] = None
        elif manifest.layers:
            unnamed.append(manifest.digest)
    if asked:
        for digest in list(unnamed):
            if (platform := configured_platform(registry, scope, digest)) is not None:
                platforms[platform] = None
                unnamed.remove(digest)
    with reading(engine) as connection:
        known = find_layers(connection, tables, layers, now=now)
    separator = "@" if isinstance(reference, Digest) else ":"
    return Coverage(
        f"{scope}{separator}{reference}",
        tuple(_image_layer(layer, known.get(digest)) for digest, layer in layers.items()),
        tuple(missing),
        tuple(platforms),
        tuple(left_out),
        # An image whose platform is named nowhere may be for any of them.
        () if unnamed else _absent(asked, usual, tuple(platforms)),
    )


def _absent(
    asked: tuple[Platform, ...], usual: tuple[Platform, ...], platforms: tuple[Platform, ...]
) -> tuple[Platform, ...]:
    if not asked and platforms:
        return ()
    return tuple(
        wanted for wanted in asked or usual if not any(wanted.takes(platform) for platform in platforms)
    )


def _image_layer(layer: LayerDescriptor, known: LayerRecord | None) -> ImageLayer:
    digest = str(layer.digest)
    if known is not None:
        return ImageLayer(digest, layer.size, known.state, known.rbtorrent_id, known.reason)
    if layer.why_not_brewed is None:
        return ImageLayer(digest, layer.size, "unknown", why="not in the queue")
    return ImageLayer(digest, layer.size, "not brewed here", why=layer.why_not_brewed)


def _names(platforms: tuple[Platform, ...]) -> str:
    return " ".join(str(platform) for platform in platforms) or "none"


def _lacks(layer: ImageLayer) -> str:
    return f"{layer.state}: {layer.why}" if layer.why else layer.state


def configured_platform(registry: RegistryClient, scope: str, digest: Digest) -> Platform | None:
    """Return the platform in the configuration of the image `digest` (OCI config.md).

    None if there is none, or if it cannot be read.
    """
    try:
        fetched = registry.fetch_manifest(scope, digest)
        image = parse_manifest(fetched.body, fetched.media_type)
        if not isinstance(image, Image):
            return None
        settings = json.loads(_read(registry, scope, image.config.digest))
        named = [settings.get("os"), settings.get("architecture"), settings.get("variant")]
        return Platform.parse("/".join(str(part) for part in named if part))
    except (RemoteError, ManifestInvalid, InvalidName, ValueError, AttributeError, RecursionError):
        return None


def _read(registry: RegistryClient, scope: str, digest: Digest) -> bytes:
    found = bytearray()
    buffer = bytearray(64 * 1024)
    with registry.open_blob(scope, digest) as blob:
        while (number := blob.readinto(memoryview(buffer))) and len(found) <= _MAX_CONFIG_BYTES:
            found += buffer[:number]
    return bytes(found)
