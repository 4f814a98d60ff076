"""A bounded cache of verified layers on disk, owned by one process. Knows nothing of HTTP or torrents.

    lock              held (flock) by the owner
    layers/<hex>      a layer's bytes, complete or not
    verified/<hex>    JSON: size and mtime of a layer whose SHA-256 was compared; touched at each use
    pinned/<hex>      present if the layer must not be evicted
    notes/<hex>       what the owner keeps beside a layer
    parts/<hex>       which blocks of a layer that is not complete are on the disk

A file in `layers` without a matching record in `verified` is never served. All files are 0600, folders 0700.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from core.digest import Digest
from core.errors import CacheFailed, InvalidName

_FOLDERS = ("layers", "verified", "pinned", "notes", "parts")
_BLOCK = 512  # the unit of st_blocks
_LATER = 1e-5  # seconds; a Unix time has microseconds as a float


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A verified layer. `used` is Unix time in seconds."""

    digest: Digest
    size: int
    used: float
    pinned: bool


@dataclass(slots=True)
class _File:
    """A file in `layers`. `size` is what it counts for, `open` the number of its readers."""

    size: int
    used: float
    verified: bool = False
    downloading: bool = False
    open: int = 0


class CachedLayer:
    """A verified layer's open file. It is not evicted while open."""

    def __init__(self, descriptor: int, size: int, leave: Callable[[], None]) -> None:
        self.size = size
        self._descriptor = descriptor
        self._leave = leave

    def read(self, offset: int, limit: int) -> bytes:
        """Return up to `limit` bytes at `offset`, b"" at the end."""
        return os.pread(self._descriptor, limit, offset)

    def fileno(self) -> int:
        """Return the file's descriptor, for os.pread."""
        return self._descriptor

    def close(self) -> None:
        """Close the file. The layer may be evicted from now on. May be called twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()


class Cache:
    """Layers under `directory`, at most `max_bytes` of them, leaving `keep_free` bytes of the disk free.

    Raises CacheFailed if the directory cannot be used or another process owns it. Thread-safe.
    """

    def __init__(self, directory: Path, max_bytes: int, keep_free: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.keep_free = keep_free
        self.on_removed: Callable[[Digest], None] = _ignore
        """Called with a layer's digest after its file was evicted or dropped."""
        self._lock = threading.RLock()
        self._files: dict[Digest, _File] = {}
        self._pinned: set[Digest] = set()
        self._latest_use = 0.0
        with self._disk_errors():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in _FOLDERS:
                (directory / name).mkdir(mode=0o700, exist_ok=True)
            self._owner = self._take_ownership()
        try:
            with self._disk_errors():
                self._load()
        except BaseException:
            os.close(self._owner)
            raise

    def open(self, digest: Digest) -> CachedLayer | None:
        """Open a verified layer and count it as used; None if it is not cached."""
        with self._lock:
            file = self._files.get(digest)
            if file is None or not file.verified:
                return None
            try:
                descriptor = os.open(self._path("layers", digest), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._remove(digest)
                return None
            if self._record(os.fstat(descriptor)) != self._read_record(digest):
                # Changed by another program.
                os.close(descriptor)
                file.verified = False
                return None
            file.open += 1
            with suppress(OSError):
                self._use(digest, file)
        return CachedLayer(descriptor, file.size, lambda: self._left(file))

    def entries(self) -> list[CacheEntry]:
        """Return the verified layers, the least recently used first."""
        with self._lock:
            found = [
                CacheEntry(digest, file.size, file.used, digest in self._pinned)
                for digest, file in self._files.items()
                if file.verified
            ]
        return sorted(found, key=lambda entry: entry.used)

    @property
    def used_bytes(self) -> int:
        """The bytes that all layers count for, those being downloaded included."""
        with self._lock:
            return sum(file.size for file in self._files.values())

    def reserve(self, digest: Digest, size: int) -> Path:
        """Make room for a layer to download and return the path of its file, which may hold a part of it.

        Raises CacheFailed if there is not enough room even after evicting all that may be evicted. To be
        followed by `commit` or `release`.
        """
        with self._lock, self._disk_errors():
            removed = self._make_room(digest, size)
            path = self._path("layers", digest)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            if path.stat().st_size > size:
                os.truncate(path, 0)
                self._path("parts", digest).unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                self._path("verified", digest).unlink()
            file = self._files.setdefault(digest, _File(size, 0.0))
            file.size, file.used = size, self._next_use()
            file.verified, file.downloading = False, True
        self._report(removed)
        return path

    def commit(self, digest: Digest) -> None:
        """Record that the SHA-256 of the layer's file is its digest. Raises CacheFailed."""
        path = self._path("layers", digest)
        with self._lock, self._disk_errors():
            file = self._files[digest]
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                record = self._record(os.fstat(stream.fileno()))
            self._write("verified", digest, json.dumps(record).encode())
            self._path("parts", digest).unlink(missing_ok=True)
            file.verified, file.downloading = True, False
            self._use(digest, file)

    def release(self, digest: Digest, *, keep: bool) -> None:
        """End a download that did not complete; `keep` leaves its part for the next one."""
        with self._lock:
            file = self._files.get(digest)
            if file is None or not file.downloading:
                return
            file.downloading = False
            if not keep:
                self._remove(digest)

    def drop(self, digest: Digest) -> bool:
        """Remove a layer, pinned or not. Returns False if it is not cached, being read or downloaded."""
        with self._lock:
            file = self._files.get(digest)
            if file is None or file.downloading or file.open:
                return False
            self.unpin(digest)
            self._remove(digest)
        self.on_removed(digest)
        return True

    def pin(self, digest: Digest) -> bool:
        """Keep a layer from eviction, also one still to be downloaded. Survives restarts.

        Returns whether the layer is cached already.
        """
        with self._lock, self._disk_errors():
            self._write("pinned", digest, b"")
            self._pinned.add(digest)
            file = self._files.get(digest)
            return file is not None and file.verified

    def unpin(self, digest: Digest) -> bool:
        """Allow a layer's eviction again. Returns whether it was pinned."""
        with self._lock, self._disk_errors():
            self._path("pinned", digest).unlink(missing_ok=True)
            pinned = digest in self._pinned
            self._pinned.discard(digest)
            return pinned

    def note(self, digest: Digest, data: bytes) -> None:
        """Keep `data` beside a layer until the layer is removed. Raises CacheFailed."""
        with self._lock, self._disk_errors():
            self._write("notes", digest, data)

    def noted(self, digest: Digest) -> bytes | None:
        """Return what `note` kept."""
        try:
            return self._path("notes", digest).read_bytes()
        except OSError:
            return None

    def keep_part(self, digest: Digest, blocks: bytes) -> None:
        """Remember, past a crash, which blocks of a download are on the disk. Raises CacheFailed."""
        with self._lock, self._disk_errors():
            self._write("parts", digest, blocks)

    def part(self, digest: Digest) -> bytes | None:
        """Return what `keep_part` kept, None if there is nothing to go on from."""
        try:
            return self._path("parts", digest).read_bytes()
        except OSError:
            return None

    def forget_part(self, digest: Digest) -> None:
        """Forget what `keep_part` kept. Raises CacheFailed."""
        with self._disk_errors():
            self._path("parts", digest).unlink(missing_ok=True)

    def close(self) -> None:
        """Give up the directory. Layers that are open stay readable. May be called twice."""
        with self._lock:
            if self._owner >= 0:
                os.close(self._owner)
                self._owner = -1

    def _take_ownership(self) -> int:
        owner = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(owner)
            raise CacheFailed(
                str(self.directory), "another process uses it: give each mirror a cache_dir of its own"
            ) from None
        return owner

    def _load(self) -> None:
        for name in ("verified", "pinned", "notes", "parts"):
            for path in (self.directory / name).iterdir():
                if path.suffix == ".new":
                    path.unlink()
        self._pinned = set(self._digests("pinned"))
        for digest in self._digests("layers"):
            state = self._path("layers", digest).stat()
            verified = self._read_record(digest) == self._record(state)
            used = self._path("verified", digest).stat().st_mtime if verified else state.st_mtime
            size = state.st_size if verified else state.st_blocks * _BLOCK
            self._files[digest] = _File(size, used, verified)
            self._latest_use = max(self._latest_use, used)
        for name in ("verified", "notes", "parts"):
            for digest in set(self._digests(name)) - self._files.keys():
                self._path(name, digest).unlink()
        excess = self.used_bytes - self.max_bytes
        for digest in self._evictable():
            if excess <= 0:
                break
            excess -= self._files[digest].size
            self._remove(digest)

    def _digests(self, folder: str) -> Iterator[Digest]:
        for path in sorted((self.directory / folder).iterdir()):
            with suppress(InvalidName):
                yield Digest(path.name)

    def _make_room(self, digest: Digest, size: int) -> list[Digest]:
        """Evict until `size` bytes fit. Raises CacheFailed, having evicted nothing, if they cannot."""
        if size > self.max_bytes:
            raise CacheFailed(str(self.directory), f"a layer of {size} bytes is larger than the whole cache")
        others = {known: file for known, file in self._files.items() if known != digest}
        excess = sum(file.size for file in others.values()) + size - self.max_bytes
        promised = sum(
            max(0, file.size - self._allocated(known)) for known, file in others.items() if file.downloading
        )
        free = shutil.disk_usage(self.directory).free
        missing = self.keep_free + promised + max(0, size - self._allocated(digest)) - free
        evicted = []
        for candidate in self._evictable():
            if excess <= 0 and missing <= 0:
                break
            if candidate == digest:
                continue
            evicted.append(candidate)
            excess -= self._files[candidate].size
            missing -= self._allocated(candidate)
        if excess > 0:
            raise CacheFailed(str(self.directory), f"no room for {size} bytes: all else is in use or pinned")
        if missing > 0:
            raise CacheFailed(
                str(self.directory),
                f"no room for {size} bytes: {free} are free on the disk, {self.keep_free} are kept free",
            )
        for candidate in evicted:
            self._remove(candidate)
        return evicted

    def _evictable(self) -> list[Digest]:
        """What may be evicted, in this order: parts of layers, then by last use."""
        found = [
            (file.verified, file.used, digest)
            for digest, file in self._files.items()
            if not (file.downloading or file.open or digest in self._pinned)
        ]
        return [digest for _, _, digest in sorted(found)]

    def _allocated(self, digest: Digest) -> int:
        try:
            return self._path("layers", digest).stat().st_blocks * _BLOCK
        except FileNotFoundError:
            return 0

    def _remove(self, digest: Digest) -> None:
        # The record first: bytes without one are never served.
        for folder in ("verified", "notes", "parts", "layers"):
            self._path(folder, digest).unlink(missing_ok=True)
        self._files.pop(digest, None)

    def _report(self, removed: list[Digest]) -> None:
        for digest in removed:
            self.on_removed(digest)

    def _use(self, digest: Digest, file: _File) -> None:
        """Count a verified layer as used now. Raises OSError."""
        file.used = self._next_use()
        os.utime(self._path("verified", digest), (file.used, file.used))

    def _next_use(self) -> float:
        """Return the Unix time, or a later one: the order of uses holds when the clock is set back."""
        self._latest_use = max(time.time(), self._latest_use + _LATER)
        return self._latest_use

    def _left(self, file: _File) -> None:
        with self._lock:
            file.open -= 1

    def _path(self, folder: str, digest: Digest) -> Path:
        return self.directory / folder / digest.hex

    def _write(self, folder: str, digest: Digest, data: bytes) -> None:
        path = self._path(folder, digest)
        new = path.with_suffix(".new")
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        new.rename(path)

    def _read_record(self, digest: Digest) -> object:
        try:
            return json.loads(self._path("verified", digest).read_bytes())
        except (OSError, ValueError):
            return None

    @staticmethod
    def _record(state: os.stat_result) -> dict[str, int]:
        return {"size": state.st_size, "mtime_ns": state.st_mtime_ns}

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = {
                errno.EACCES: "no permission",
                errno.EROFS: "it is read-only",
                errno.ENOSPC: "the disk is full",
            }
            text = why.get(error.errno or 0, error.strerror or str(error))
            raise CacheFailed(str(self.directory), text) from error


def _ignore(digest: Digest) -> None:
    pass
