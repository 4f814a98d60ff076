"""The cache's directory: its files, and the lock of the process that owns it.

    lock              held (flock) by the owner
    layers/<hex>      a layer's bytes, possibly incomplete
    verified/<hex>    JSON: size and mtime of a layer whose SHA-256 was compared; touched at each use
    pinned/<hex>      present if the layer must not be evicted
    notes/<hex>       the data stored with a layer by `Cache.save_metadata`
    parts/<hex>       which blocks of an incomplete layer are on the disk

A file in `layers` without a matching record in `verified` is never served. All files are 0600, folders 0700.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, Self

from core.digest import Digest
from core.errors import CacheFailed, InvalidName
from core.os_errors import os_reason

Folder = Literal["layers", "verified", "pinned", "notes", "parts"]

_FOLDERS: tuple[Folder, ...] = ("layers", "verified", "pinned", "notes", "parts")
_LAYER_FOLDERS: tuple[Folder, ...] = ("verified", "notes", "parts", "layers")
"""In the order of removal. The record first: bytes without one are never served."""
_BLOCK = 512  # the unit of st_blocks
_REASONS = {
    errno.EROFS: "it is read-only",
    errno.EEXIST: "it is not a directory",
    errno.ENOSPC: "the disk is full",
}


class CachedLayer:
    """A verified layer's open file. It is not evicted while open."""

    def __init__(self, descriptor: int, size: int, leave: Callable[[], None]) -> None:
        self.size = size
        self._descriptor = descriptor
        self._leave = leave

    def read(self, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes at `offset`, b"" at the end. Raises OSError."""
        return os.pread(self._descriptor, limit, offset)

    def close(self) -> None:
        """Close the file. The layer may then be evicted. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CacheFiles:
    """The files under `directory`, by layer. Methods raise OSError, which `disk_errors` translates."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = -1

    def acquire(self) -> bool:
        """Own the directory, created if missing. Return False if it is owned already.

        It may differ from the previous one: its disk was unmounted, or it was removed. Raises
        CacheFailed if another process owns it; OSError if it cannot be used or written.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in _FOLDERS:
            (self.directory / folder).mkdir(mode=0o700, exist_ok=True)
        lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if self._lock >= 0 and os.path.sameopenfile(lock, self._lock):
                return False
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock, lock = lock, self._lock
        except BlockingIOError:
            raise CacheFailed(
                str(self.directory), "another process uses it: give each mirror a cache_dir of its own"
            ) from None
        finally:
            if lock >= 0:
                os.close(lock)
        return True

    def close(self) -> None:
        """Release the directory. May be called twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def path(self, folder: Folder, digest: Digest) -> Path:
        return self.directory / folder / digest.hex

    def digests(self, folder: Folder) -> list[Digest]:
        """Return the layers that have a file in `folder`."""
        found = []
        for path in sorted((self.directory / folder).iterdir()):
            with suppress(InvalidName):
                found.append(Digest(path.name))
        return found

    def write(self, folder: Folder, digest: Digest, data: bytes) -> None:
        """Write a file atomically, so that it survives a crash."""
        path = self.path(folder, digest)
        new = path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        new.rename(path)

    def read(self, folder: Folder, digest: Digest) -> bytes | None:
        """Return the data written by `write`, None if there is none."""
        try:
            return self.path(folder, digest).read_bytes()
        except OSError:
            return None

    def unlink(self, folder: Folder, digest: Digest) -> None:
        self.path(folder, digest).unlink(missing_ok=True)

    def remove(self, digest: Digest) -> None:
        """Remove a layer's files, except its pin."""
        for folder in _LAYER_FOLDERS:
            self.unlink(folder, digest)

    def remove_leftovers(self) -> None:
        """Remove unfinished files, and those whose layer is missing."""
        for folder in _FOLDERS[1:]:
            for path in (self.directory / folder).iterdir():
                if path.suffix == ".new":
                    path.unlink()
        layers = set(self.digests("layers"))
        for folder in _LAYER_FOLDERS[:-1]:
            for digest in set(self.digests(folder)) - layers:
                self.unlink(folder, digest)

    def create(self, digest: Digest, size: int) -> Path:
        """Return the path of a layer's file to download to, which may contain a part of its `size` bytes.

        It then counts as not verified.
        """
        path = self.path("layers", digest)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if path.stat().st_size > size:
            os.truncate(path, 0)
            self.unlink("parts", digest)
        self.unlink("verified", digest)
        return path

    def open_verified(self, digest: Digest) -> int | None:
        """Return the descriptor of a verified layer's file, None if another program changed it.

        Raises FileNotFoundError if it is missing.
        """
        descriptor = os.open(self.path("layers", digest), os.O_RDONLY | os.O_CLOEXEC)
        if self.is_verified(digest, os.fstat(descriptor)):
            return descriptor
        os.close(descriptor)
        return None

    def is_verified(self, digest: Digest, state: os.stat_result) -> bool:
        """Return whether the layer's file is in the recorded state."""
        try:
            return bool(json.loads(self.read("verified", digest) or b"null") == _record(state))
        except ValueError:
            return False

    def record_verified(self, digest: Digest) -> None:
        """Record that the layer's file has its digest."""
        self.write("verified", digest, json.dumps(_record(self.path("layers", digest).stat())).encode())
        self.unlink("parts", digest)

    def sync(self, digest: Digest) -> None:
        """Flush the layer's file to the disk."""
        with self.path("layers", digest).open("rb") as stream:
            os.fsync(stream.fileno())

    def allocated(self, digest: Digest) -> int:
        """Return the disk space of the layer's file, in bytes."""
        try:
            return self.path("layers", digest).stat().st_blocks * _BLOCK
        except FileNotFoundError:
            return 0

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.directory).free

    @contextmanager
    def disk_errors(self) -> Iterator[None]:
        """Raise CacheFailed instead of OSError within the block."""
        try:
            yield
        except OSError as error:
            why = _REASONS.get(error.errno or 0) or os_reason(error)
            raise CacheFailed(str(self.directory), why) from error


def _record(state: os.stat_result) -> dict[str, int]:
    return {"size": state.st_size, "mtime_ns": state.st_mtime_ns}
