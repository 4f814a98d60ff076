"""Blobs in the S3 bucket of a registry, read without the registry in between."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from core.blobs.source import StoredFile
from core.blobs.storage_layout import blob_path, common_folder
from core.layer import Layer

if TYPE_CHECKING:
    from core.s3 import Bucket, S3Reader


class S3Blobs:
    """Reads the keys `prefix` + `blob_path_template` of a bucket (a BlobStorage).

    `prefix` is the registry's `storage.s3.rootdirectory`. Keys are built as its driver builds them
    (s3-aws/s3.go, s3Path): one slash between the two, no leading slash.
    """

    parallel = True

    def __init__(self, bucket: Bucket, prefix: str, blob_path_template: str) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._template = blob_path_template

    def size(self, layer: Layer) -> int:
        """Return the object's size in bytes."""
        return self._bucket.size(self._key(layer))

    def open(self, layer: Layer, offset: int, length: int | None = None) -> S3Reader:
        """Return a reader of the object, or of a range of it. See BlobSource."""
        return self._bucket.open(self._key(layer), offset, length)

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        """Yield the objects below `folder`, a page of 1,000 at a time. S3 has no folders to skip."""
        root = self._joined("")
        for key, size in self._bucket.list(f"{root}{folder}/"):
            yield StoredFile(key[len(root) :], size)

    def check(self) -> str:
        """Return one line on the bucket, after listing the folder that should hold layers."""
        folder = self._joined(common_folder(self._template)) + "/"
        where = f"s3://{self._bucket.name}/{folder}"
        self._bucket.check()
        found = next(self._bucket.list(folder), None) is not None
        return f"layers in {where} can be read" if found else f"{where} can be listed, and is empty"

    def _key(self, layer: Layer) -> str:
        return self._joined(blob_path(self._template, layer.digest))

    def _joined(self, path: str) -> str:
        return f"{self._prefix.rstrip('/')}/{path.lstrip('/')}".lstrip("/")
