"""Read the layers of an image, or of the images of an index for some platforms."""

from __future__ import annotations

import json
from collections.abc import Callable

from core.digest import Digest
from core.errors import InvalidName, ManifestInvalid, RemoteError
from core.manifests.coverage import ImageContents
from core.manifests.manifest import Image, LayerDescriptor, parse_manifest
from core.manifests.platform import Platform
from core.registry.client import RegistryClient
from core.registry.image_tree import Known, TreeReader

_MAX_CONFIG_BYTES = 4 * 1024 * 1024
"""docker/distribution's own limit for manifests."""


def read_image_contents(
    registry: RegistryClient,
    scope: str,
    reference: str | Digest,
    *,
    requested: tuple[Platform, ...] = (),
    usual: tuple[Platform, ...] = (),
    may_read: Callable[[], bool] = lambda: True,
) -> ImageContents:
    """Return the layers of the image at `scope:reference`, or of the images of an index there.

    Of an index, only the images for the `requested` platforms are examined, all of which must exist; or else
    those for the `usual` platforms, of which one is enough; or else all. An image outside an index is always
    examined; its platform is read from its configuration, if any platform is `requested`. `may_read` is
    called before each examined manifest of an index; once it returns False, the others are left out (`cut`).
    Raises RemoteError or ManifestInvalid if the manifest at `reference` cannot be read.
    """
    layers: dict[Digest, LayerDescriptor] = {}
    missing: dict[Digest, None] = {}
    platforms: dict[Platform, None] = {}
    left_out: dict[Platform, None] = {}
    unnamed: list[Digest] = []
    cut = False

    def known(digest: Digest) -> Known:
        nonlocal cut
        cut = cut or not may_read()
        return "in part" if cut else "no"

    for manifest in TreeReader(registry, scope, platforms=requested or usual, known=known).read(reference):
        layers.update((layer.digest, layer) for layer in manifest.layers)
        missing.update(dict.fromkeys(manifest.unread))
        left_out.update((platform, None) for platform in manifest.left_out)
        if manifest.platform is not None:
            platforms[manifest.platform] = None
        elif manifest.layers:
            unnamed.append(manifest.digest)
    if requested:
        for digest in list(unnamed):
            if (platform := _configured_platform(registry, scope, digest)) is not None:
                platforms[platform] = None
                unnamed.remove(digest)
    separator = "@" if isinstance(reference, Digest) else ":"
    return ImageContents(
        f"{scope}{separator}{reference}",
        tuple(layers.values()),
        tuple(missing),
        tuple(platforms),
        tuple(left_out),
        # An image without a platform may be for any of them.
        () if unnamed or cut else _absent(requested, usual, tuple(platforms)),
        cut,
    )


def _absent(
    requested: tuple[Platform, ...], usual: tuple[Platform, ...], platforms: tuple[Platform, ...]
) -> tuple[Platform, ...]:
    if not requested and platforms:
        return ()
    return tuple(
        wanted for wanted in requested or usual if not any(wanted.takes(platform) for platform in platforms)
    )


def _configured_platform(registry: RegistryClient, scope: str, digest: Digest) -> Platform | None:
    """Return the platform in the configuration of the image `digest` (OCI config.md).

    None if it has no platform, or cannot be read.
    """
    try:
        fetched = registry.fetch_manifest(scope, digest)
        image = parse_manifest(fetched.body, fetched.media_type)
        if not isinstance(image, Image) or image.config is None:
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
