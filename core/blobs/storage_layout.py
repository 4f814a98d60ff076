"""The path of a blob in a registry's storage: `blob_path_template` with a digest."""

from __future__ import annotations

import re

from core.digest import Digest
from core.errors import InvalidName
from core.names import parse_scope


def blob_path(template: str, digest: Digest) -> str:
    """Return the blob's path below the storage's root, with a leading slash if the template has one.

    distribution's own layout is `/docker/registry/v2/blobs/sha256/<2 hex>/<64 hex>/data`
    (registry/storage/paths.go). A Digest is hex digits only, so the path cannot leave the root.
    """
    return template.format(short_digest=digest.short, full_digest=digest.hex)


def common_folder(template: str) -> str:
    """Return the part of all blobs' paths that does not depend on the digest, without slashes at its ends."""
    return template.partition("{")[0].rpartition("/")[0].strip("/")


MANIFESTS = "_manifests"
"""The folder of a repository's tags and manifests: most of the files, and no layers."""

_LINK = re.compile(r"(.+)/_layers/sha256/([0-9a-f]{64})/link\Z", re.DOTALL)
_UPLOAD = re.compile(r"(.+/_uploads/[^/]+)/.+\Z", re.DOTALL)


class StorageLayout:
    """Parses paths from the storage's root, with or without a leading slash."""

    def __init__(self, blob_path_template: str, blob_path_digest_index: int) -> None:
        self._template = blob_path_template
        # Counted as in the template: a leading slash is an empty element.
        self._index = blob_path_digest_index - blob_path_template.startswith("/")
        self.blobs = common_folder(blob_path_template)
        """The folder below which all blobs are."""
        root, found, _ = f"/{self.blobs}/".partition("/blobs/")
        self.repositories = f"{root}/repositories".strip("/") if found else None
        """The folder of all repositories; None if the template is not distribution's."""

    def digest_of(self, path: str) -> Digest | None:
        """Return the digest of the blob at `path`, or None."""
        bare = path.strip("/")
        parts = bare.split("/")
        if self._index >= len(parts):
            return None
        try:
            digest = Digest(parts[self._index])
        except InvalidName:
            return None
        return digest if blob_path(self._template, digest).strip("/") == bare else None

    def link_at(self, path: str) -> tuple[Digest, str] | None:
        """Return blob (a layer or an image's config) and repository of the link at `path`, or None."""
        found = _LINK.match(self._in_repository(path))
        if found is None:
            return None
        try:
            return Digest(found[2]), parse_scope(found[1])
        except InvalidName:
            return None

    def upload_at(self, path: str) -> str | None:
        """Return the folder of the upload that the file at `path` belongs to, or None."""
        found = _UPLOAD.match(self._in_repository(path))
        return found[1] if found else None

    def _in_repository(self, path: str) -> str:
        folder = f"{self.repositories}/"
        bare = path.strip("/")
        return bare[len(folder) :] if self.repositories and bare.startswith(folder) else ""


def position_of(digest: Digest) -> float:
    """Return the position of a digest among all possible ones, from 0 to 1: blobs in order are spread evenly,
    so this is the progress of a listing.
    """
    return int(digest.hex[:8], 16) / 0x100000000
