"""Metainfo in an S3 bucket: `<prefix><2 hex>/<64 hex>.torrent`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from core.digest import Digest
from core.errors import MetainfoMissing, StoreFailed
from core.s3 import Bucket, S3Failed

# The media type of BEP 3's metainfo, for whoever fetches an object with a browser.
CONTENT_TYPE = "application/x-bittorrent"

# Metainfo of an 8 TiB layer has 10 MB; more is none of ours.
MOST = 16 * 1024 * 1024


class S3Store:
    """A MetainfoStore in `bucket`, whose keys begin with `prefix`.

    S3 shows an object only once it is there whole, and has it safe when it answers the PUT.
    """

    def __init__(self, bucket: Bucket, prefix: str = "") -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._where = f"s3://{bucket.name}/{prefix}"

    def put(self, digest: Digest, data: bytes) -> None:
        with self._translated():
            self._bucket.put(self._key(digest), data, CONTENT_TYPE)

    def get(self, digest: Digest) -> bytes:
        with self._translated():
            try:
                return self._bucket.get(self._key(digest), MOST)
            except S3Failed as error:
                if error.trouble == "missing":
                    raise MetainfoMissing(str(digest)) from error
                raise

    def delete(self, digest: Digest) -> None:
        with self._translated():
            self._bucket.delete(self._key(digest))

    def check(self) -> str:
        probe = self._prefix + "check"
        with self._translated():
            self._bucket.put(probe, b"check", "text/plain")
            self._bucket.get(probe, MOST)
            self._bucket.delete(probe)
        return f"bucket {self._where} takes metainfo"

    def _key(self, digest: Digest) -> str:
        return f"{self._prefix}{digest.short}/{digest.hex}.torrent"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except S3Failed as error:
            raise StoreFailed(self._where, error.why) from error
