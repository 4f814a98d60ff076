"""What platform an image is for, by its own configuration: for images that are in no index."""

from __future__ import annotations

import json

from core.digest import Digest
from core.errors import InvalidName, LayerError, RegistryError
from core.http.errors import HttpError
from core.manifests.manifest import Image, parse_manifest
from core.manifests.platform import Platform
from core.registry.client import RegistryClient

_MOST = 4 * 1024 * 1024
"""Bytes of a configuration; docker/distribution takes no larger manifest either."""


def configured_platform(registry: RegistryClient, scope: str, digest: Digest) -> Platform | None:
    """The platform that the configuration of the image `digest` names (OCI config.md); None if it names none,
    or cannot be read.
    """
    try:
        fetched = registry.fetch_manifest(scope, digest)
        image = parse_manifest(fetched.body, fetched.media_type)
        if not isinstance(image, Image):
            return None
        said = json.loads(_read(registry, scope, image.config.digest))
        named = [said.get("os"), said.get("architecture"), said.get("variant")]
        return Platform.parse("/".join(str(part) for part in named if part))
    except (RegistryError, LayerError, HttpError, InvalidName, ValueError, AttributeError, RecursionError):
        return None


def _read(registry: RegistryClient, scope: str, digest: Digest) -> bytes:
    found = bytearray()
    buffer = bytearray(64 * 1024)
    with registry.open_blob(scope, digest) as blob:
        while (number := blob.readinto(memoryview(buffer))) and len(found) <= _MOST:
            found += buffer[:number]
    return bytes(found)
