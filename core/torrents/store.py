"""Stores that keep the metainfo of layers: a directory, or an S3 bucket."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from core.digest import Digest
from core.errors import MetainfoMissing, NotFound, Refused, RemoteError, StoreFailed

if TYPE_CHECKING:
    from core.s3 import Bucket


class MetainfoStore(Protocol):
    """Keeps one .torrent for each layer, under the layer's digest. Both stores pass one conformance suite.

    Methods may be called from several threads and processes at once. A reader sees a complete metainfo, the
    old or the new one. When `put` has returned, the metainfo survives a crash, so the layer's row may be
    marked brewed. All raise StoreFailed when the store itself fails.
    """

    def put(self, digest: Digest, data: bytes) -> None:
        """Store `data` for this layer, replacing earlier metainfo."""
        ...

    def get(self, digest: Digest) -> bytes:
        """Return the stored metainfo of this layer. Raises MetainfoMissing."""
        ...

    def delete(self, digest: Digest) -> None:
        """Delete the layer's metainfo, if it exists."""
        ...

    def check(self) -> str:
        """Return one line for the operator, after a write, a read and a delete of usual size."""
        ...


# Metainfo of 1024 pieces has 21 KB: if the probe fits, a layer's does too.
_PROBE = b"docker-torrents check\n" * 1024

# A revoked permission is noticed after this many seconds.
_READABLE_SECONDS = 5.0

# Writing takes milliseconds: a file that has been in `incoming` for this many seconds was abandoned.
LEFTOVER_AGE = 3600


class DirectoryStore:
    """A MetainfoStore in the directory `root`, which is created at first use:
    `<root>/<2 hex>/<64 hex>.torrent`.

    A file is written under `root/incoming`, on the same file system, and renamed to its final name. It is
    synced before that and its folder after it, so that no crash leaves an empty file under the final name, or
    a layer marked brewed without metainfo.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._incoming = root / "incoming"
        self._swept = False

    def put(self, digest: Digest, data: bytes) -> None:
        with self._translated():
            self._prepare()
            with self._written(data) as new:
                path = self._path(digest)
                try:
                    new.replace(path)
                except FileNotFoundError:
                    path.parent.mkdir(exist_ok=True)
                    _sync(self._root)
                    new.replace(path)
                _sync(path.parent)

    def get(self, digest: Digest) -> bytes:
        with self._translated():
            try:
                return self._path(digest).read_bytes()
            except FileNotFoundError as error:
                raise MetainfoMissing(str(digest)) from error

    def delete(self, digest: Digest) -> None:
        with self._translated():
            self._path(digest).unlink(missing_ok=True)

    def check(self) -> str:
        with self._translated():
            self._prepare()
            with self._written(_PROBE) as probe:
                probe.read_bytes()
            free = shutil.disk_usage(self._root).free
        return f"directory {self._root} takes metainfo, {free / 2**30:.1f} GiB free"

    def _path(self, digest: Digest) -> Path:
        return self._root / digest.short / f"{digest.hex}.torrent"

    def _prepare(self) -> None:
        """Create the folders; the first time, remove leftovers of killed writers."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        if self._swept:
            return
        _sync(self._root.parent)
        oldest = time.time() - LEFTOVER_AGE
        for entry in os.scandir(self._incoming):
            # Another process may remove it too.
            with suppress(FileNotFoundError):
                if entry.stat().st_mtime < oldest:
                    os.unlink(entry)
        self._swept = True

    @contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        """Write a new file, synced; remove it afterwards unless it was renamed."""
        path = self._incoming / secrets.token_hex(16)
        try:
            # Not tempfile's 0600: the web app may run as another user. The umask decides.
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield path
        finally:
            path.unlink(missing_ok=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreFailed(str(self._root), error.strerror or str(error)) from error


def _sync(folder: Path) -> None:
    """Make the names in `folder` survive a crash."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The media type of BEP 3's metainfo, for browsers.
CONTENT_TYPE = "application/x-bittorrent"

# Metainfo of an 8 TiB layer has 10 MB; anything larger was not written by this service.
MOST = 16 * 1024 * 1024


class S3Store:
    """A MetainfoStore in `bucket`: `<prefix><2 hex>/<64 hex>.torrent`.

    S3 shows an object only when it is complete, and has stored it when it answers the PUT. Without the
    permission s3:ListBucket it answers 403 instead of 404 for a missing key: a refused key counts as missing
    if other objects can be read.
    """

    def __init__(self, bucket: Bucket, prefix: str = "") -> None:
        self._bucket = bucket
        self._prefix = prefix
        self._where = f"s3://{bucket.name}/{prefix}"
        # A unique key, as another process may probe at the same time.
        self._probe_key = f"{prefix}check-{secrets.token_hex(8)}"
        self._probing = threading.Lock()
        self._readable_until = float("-inf")

    def put(self, digest: Digest, data: bytes) -> None:
        with self._translated():
            self._bucket.put(self._key(digest), data, CONTENT_TYPE)

    def get(self, digest: Digest) -> bytes:
        with self._translated():
            try:
                return self._bucket.get(self._key(digest), MOST)
            except NotFound as error:
                raise MetainfoMissing(str(digest)) from error
            except Refused as error:
                if error.status != 403 or not self._readable():
                    raise
                raise MetainfoMissing(str(digest)) from error

    def delete(self, digest: Digest) -> None:
        with self._translated():
            self._bucket.delete(self._key(digest))

    def check(self) -> str:
        with self._translated(), self._probing:
            self._probe()
            try:
                self._bucket.check()
            except Refused as error:
                return f"bucket {self._where} takes metainfo, but a permission is missing: {error.why}"
        return f"bucket {self._where} takes metainfo"

    def _readable(self) -> bool:
        """Return whether objects of this store can be read, by reading one that certainly exists."""
        with self._probing:
            if time.monotonic() < self._readable_until:
                return True
            try:
                self._probe()
            except RemoteError:
                return False
            self._readable_until = time.monotonic() + _READABLE_SECONDS
            return True

    def _probe(self) -> None:
        self._bucket.put(self._probe_key, _PROBE, "application/octet-stream")
        try:
            self._bucket.get(self._probe_key, MOST)
        finally:
            self._bucket.delete(self._probe_key)

    def _key(self, digest: Digest) -> str:
        return f"{self._prefix}{digest.short}/{digest.hex}.torrent"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except RemoteError as error:
            raise StoreFailed(self._where, error.why) from error
