"""The objects of the S3 bucket in which a registry keeps its storage."""

from __future__ import annotations

from collections.abc import Iterator

from core.errors import LayerError, SourceRefused, SourceTimeout, SourceUnavailable
from core.s3 import Bucket, S3Failed
from core.storages.storage import StoredFile


class S3Storage:
    """Lists the keys below `prefix`, the storage driver's `rootdirectory` (a Storage).

    A page of 1,000 keys is in memory at a time. S3 knows no folders, so nothing is skipped. `read_timeout`,
    in seconds, is the bucket's own, for messages.
    """

    def __init__(self, bucket: Bucket, prefix: str, *, read_timeout: float) -> None:
        self._bucket = bucket
        self._root = f"{prefix.strip('/')}/".lstrip("/")
        self._read_timeout = read_timeout

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        """See Storage."""
        try:
            for key, size in self._bucket.list(f"{self._root}{folder}/"):
                yield StoredFile(key[len(self._root) :], size)
        except S3Failed as error:
            raise self._translate(error) from error

    def _translate(self, error: S3Failed) -> LayerError:
        if error.trouble == "refused":
            return SourceRefused(error.where, error.why)
        if error.trouble == "timeout":
            return SourceTimeout(error.where, self._read_timeout)
        return SourceUnavailable(error.where, error.why)
