"""Metainfo in a directory: `<root>/<2 hex>/<64 hex>.torrent`, put there whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.digest import Digest
from core.errors import MetainfoMissing, StoreFailed

# A writer needs milliseconds; a file that has lain in `incoming` for this long, in seconds, has none.
LEFTOVER_AGE = 3600


class DirectoryStore:
    """A MetainfoStore in the directory `root`, which need not be there yet.

    A file is written under `root/incoming`, on the file system it is meant for, and renamed to its
    place. It is synced before that and its folder after, so that no crash leaves an empty file under
    the right name, or a layer marked brewed whose metainfo was never linked.
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
            with self._written(b"check") as probe:
                probe.read_bytes()
            free = shutil.disk_usage(self._root).free
        return f"directory {self._root} takes metainfo, {free / 2**30:.1f} GiB free"

    def _path(self, digest: Digest) -> Path:
        return self._root / digest.short / f"{digest.hex}.torrent"

    def _prepare(self) -> None:
        """Make the folders; once in this store's life, remove what killed writers left."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        if self._swept:
            return
        _sync(self._root.parent)
        oldest = time.time() - LEFTOVER_AGE
        for entry in os.scandir(self._incoming):
            # Another process may be clearing up as well.
            with suppress(FileNotFoundError):
                if entry.stat().st_mtime < oldest:
                    os.unlink(entry)
        self._swept = True

    @contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        """A new file that holds `data`, synced; it is gone afterwards unless it was renamed."""
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
