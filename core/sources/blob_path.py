"""Where a registry's storage keeps a blob: `blob_path_template` with a digest put in."""

from __future__ import annotations

from core.digest import Digest


def blob_path(template: str, digest: Digest) -> str:
    """The path from the storage's root, with or without a slash in front as the template has it.

    distribution's own layout is `/docker/registry/v2/blobs/sha256/<2 hex>/<64 hex>/data`
    (registry/storage/paths.go). A Digest is hex digits only, so the path cannot leave the root.
    """
    return template.format(short_digest=digest.short, full_digest=digest.hex)


def common_folder(template: str) -> str:
    """The part of every blob's path that no digest changes, without slashes at its ends."""
    return template.partition("{")[0].rpartition("/")[0].strip("/")
