"""Manifests as documents, to be modified by tests."""

from __future__ import annotations

import hashlib
from typing import Any

from core.manifests.media_types import OCI_INDEX, OCI_MANIFEST

DIGESTS = [f"sha256:{hashlib.sha256(bytes([number])).hexdigest()}" for number in range(8)]
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def layer(number: int = 1, **fields: Any) -> dict[str, Any]:
    return {"mediaType": LAYER_TYPE, "size": 100 + number, "digest": DIGESTS[number], **fields}


def image(**fields: Any) -> dict[str, Any]:
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 7, "digest": DIGESTS[0]}
    return {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": config,
        "layers": [layer(1), layer(2)],
        **fields,
    }


def child(number: int = 1, **fields: Any) -> dict[str, Any]:
    platform = {"os": "linux", "architecture": "amd64"}
    return {
        "mediaType": OCI_MANIFEST,
        "size": 500,
        "digest": DIGESTS[number],
        "platform": platform,
        **fields,
    }


def index(**fields: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child(1), child(2)], **fields}


def without(document: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in names}
