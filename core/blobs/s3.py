"""Layers from the S3 bucket in which a registry keeps them, without the registry in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from core.blobs.source import StoredFile
from core.blobs.storage_layout import blob_path, common_folder
from core.errors import LayerError, LayerMissing, SourceCut, SourceRefused, SourceTimeout, SourceUnavailable
from core.layer import LayerRef
from core.s3 import Bucket, S3Failed, S3Reader

_Got = TypeVar("_Got")


class S3Blobs:
    """Reads the keys `prefix` + `blob_path_template` of a bucket (a BlobSource).

    `prefix` is the registry's `storage.s3.rootdirectory`, and the key is made as its driver makes it
    (s3-aws/s3.go, s3Path): one slash between the two, none in front. `read_timeout`, in seconds, is the
    bucket's own, for messages. Raises LayerMissing, SourceRefused, SourceTimeout, SourceUnavailable.
    """

    parallel = True

    def __init__(self, bucket: Bucket, prefix: str, blob_path_template: str, *, read_timeout: float) -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._template = blob_path_template
        self._read_timeout = read_timeout

    def size(self, layer: LayerRef) -> int:
        """The object's size in bytes."""
        return self._translated(layer, 0, lambda: self._bucket.size(self._key(layer)))

    def open(self, layer: LayerRef, offset: int, length: int | None = None) -> S3LayerReader:
        """A reader of the object, or of a range of it. See BlobSource."""
        reader = self._translated(layer, offset, lambda: self._bucket.open(self._key(layer), offset, length))
        return S3LayerReader(self, reader, layer, offset)

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        """The objects below `folder`, a page of 1,000 at a time. S3 has no folders, so nothing is skipped."""
        root = self._joined("")
        try:
            for key, size in self._bucket.list(f"{root}{folder}/"):
                yield StoredFile(key[len(root) :], size)
        except S3Failed as error:
            raise self.translate(error, error.where, 0) from error

    def check(self) -> str:
        """One line on the bucket, after a look at it and at the place where layers should be in it."""

        def look() -> bool:
            self._bucket.check()
            return next(self._bucket.list(folder), None) is not None

        folder = self._joined(common_folder(self._template)) + "/"
        where = f"s3://{self._bucket.name}/{folder}"
        try:
            found = look()
        except S3Failed as error:
            raise self.translate(error, where, 0) from error
        return f"layers in {where} can be read" if found else f"{where} can be listed, and is empty"

    def translate(self, error: S3Failed, digest: str, offset: int) -> LayerError:
        """What trouble at S3 means for a layer, of which `offset` bytes were read."""
        match error.trouble:
            case "missing":
                return LayerMissing(digest, error.where)
            case "refused":
                return SourceRefused(error.where, error.why)
            case "timeout":
                return SourceTimeout(error.where, self._read_timeout)
            case "cut":
                return SourceCut(error.where, offset, error.why)
            case "unavailable":
                return SourceUnavailable(error.where, error.why)

    def _translated(self, layer: LayerRef, offset: int, ask: Callable[[], _Got]) -> _Got:
        try:
            return ask()
        except S3Failed as error:
            raise self.translate(error, str(layer.digest), offset) from error

    def _key(self, layer: LayerRef) -> str:
        return self._joined(blob_path(self._template, layer.digest))

    def _joined(self, path: str) -> str:
        return f"{self._prefix.rstrip('/')}/{path.lstrip('/')}".lstrip("/")


class S3LayerReader:
    """A layer's bytes from S3, with trouble told in the words of layer sources (a BlobReader)."""

    def __init__(self, source: S3Blobs, reader: S3Reader, layer: LayerRef, offset: int) -> None:
        self._source = source
        self._reader = reader
        self._layer = layer
        self._offset = offset

    def readinto(self, buffer: memoryview, /) -> int:
        """As BlobReader's."""
        try:
            count = self._reader.readinto(buffer)
        except S3Failed as error:
            raise self._source.translate(error, str(self._layer.digest), self._offset) from error
        self._offset += count
        return count

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.close()
