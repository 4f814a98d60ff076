"""A bounded cache of verified layers on disk, owned by one process. Independent of HTTP and torrents.

This module decides on eviction; node/cache_files.py handles the files.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from core.digest import Digest
from core.errors import CacheFailed
from node.cache_files import CachedLayer, CacheFiles

_MIN_TIME_STEP = 1e-5  # seconds; a Unix time has microseconds as a float


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A verified layer. `used` is Unix time in seconds."""

    digest: Digest
    size: int
    used: float
    pinned: bool


@dataclass(slots=True)
class _Layer:
    """A file in `layers`. `size` is the counted size, `open` the number of its readers."""

    size: int
    used: float
    verified: bool = False
    downloading: bool = False
    open: int = 0


class Cache:
    """Layers under `directory`, at most `max_bytes` of them, leaving `keep_free` bytes of the disk free.

    Raises CacheFailed if the directory cannot be used or another process owns it. Thread-safe.
    """

    def __init__(self, directory: Path, max_bytes: int, keep_free: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self.keep_free = keep_free
        self.on_removed: Callable[[Digest], None] = lambda digest: None
        """A callback with a layer's digest after its file was evicted, dropped or lost."""
        self._files = CacheFiles(directory)
        self._lock = threading.RLock()
        self._layers: dict[Digest, _Layer] = {}
        self._pinned: set[Digest] = set()
        self._latest_use = 0.0
        self.check()

    def check(self) -> None:
        """Raise CacheFailed unless layers can be stored. Take over a directory that was replaced."""
        lost: list[Digest] = []
        with self._lock, self._files.disk_errors():
            if self._files.acquire():
                before = self._layers
                try:
                    self._load()
                except BaseException:
                    # The next check reads the directory again, and reports what is lost.
                    self._layers = before
                    self._files.close()
                    raise
                lost = [digest for digest in before if digest not in self._layers]
        self._report(lost)

    def open(self, digest: Digest) -> CachedLayer | None:
        """Open a verified layer and count it as used; None if it is not cached. Raises CacheFailed."""
        with self._lock, self._files.disk_errors():
            layer = self._layers.get(digest)
            if layer is None or not layer.verified:
                return None
            try:
                descriptor = self._files.open_verified(digest)
            except FileNotFoundError:
                self._remove(digest)
                return None
            if descriptor is None:
                layer.verified = False
                return None
            layer.open += 1
            layer.used = self._next_use()
            with suppress(OSError):
                os.utime(self._files.path("verified", digest), (layer.used, layer.used))
        return CachedLayer(descriptor, layer.size, lambda: self._closed(layer))

    def entries(self) -> list[CacheEntry]:
        """Return the verified layers, the least recently used first."""
        with self._lock:
            entries = [
                CacheEntry(digest, layer.size, layer.used, digest in self._pinned)
                for digest, layer in self._layers.items()
                if layer.verified
            ]
        return sorted(entries, key=lambda entry: entry.used)

    def reserve(self, digest: Digest, size: int) -> Path:
        """Reserve space for a layer to download. Return the path of its file, which may contain a part.

        Raises CacheFailed if there is not enough room even after evicting everything possible. Must
        be followed by `commit` or `release`.
        """
        removed: list[Digest] = []
        try:
            with self._lock, self._files.disk_errors():
                for candidate in self._to_evict(digest, size):
                    self._remove(candidate)
                    removed.append(candidate)
                path = self._files.create(digest, size)
                layer = self._layers.setdefault(digest, _Layer(size, 0.0))
                layer.size, layer.used = size, self._next_use()
                layer.verified, layer.downloading = False, True
        finally:
            self._report(removed)
        return path

    def commit(self, digest: Digest) -> CachedLayer:
        """Record that the SHA-256 of the layer's file is its digest, and open it. Raises CacheFailed."""
        with self._files.disk_errors():
            # Outside the lock: it may take seconds.
            self._files.sync(digest)
        with self._lock, self._files.disk_errors():
            self._files.record_verified(digest)
            layer = self._layers[digest]
            layer.verified, layer.downloading = True, False
            opened = self.open(digest)
        if opened is None:
            raise CacheFailed(str(self.directory), "another program changed a layer's file")
        return opened

    def release(self, digest: Digest, *, keep: bool) -> None:
        """End an incomplete download; `keep` leaves its part for the next one."""
        with self._lock:
            layer = self._layers.get(digest)
            if layer is None or not layer.downloading:
                return
            layer.downloading = False
            if not keep:
                # A file that cannot be removed is not verified, and the next download checks it.
                with suppress(OSError):
                    self._remove(digest)

    def drop(self, digest: Digest) -> bool:
        """Remove a layer, pinned or not. Return False if it is not cached, or in use. Raises CacheFailed."""
        with self._lock, self._files.disk_errors():
            layer = self._layers.get(digest)
            if layer is None or layer.downloading or layer.open:
                return False
            self.unpin(digest)
            self._remove(digest)
        self.on_removed(digest)
        return True

    def mark_damaged(self, digest: Digest) -> None:
        """Stop serving a damaged layer, except to current readers. It stays pinned. Raises CacheFailed."""
        with self._lock, self._files.disk_errors():
            layer = self._layers.get(digest)
            if layer is not None and layer.verified:
                layer.verified = False
                self._files.unlink("verified", digest)

    def pin(self, digest: Digest) -> None:
        """Protect a layer, cached or not yet, from eviction. Survives restarts. Raises CacheFailed."""
        with self._lock, self._files.disk_errors():
            self._files.write("pinned", digest, b"")
            self._pinned.add(digest)

    def unpin(self, digest: Digest) -> None:
        """Allow a layer's eviction again. Raises CacheFailed."""
        with self._lock, self._files.disk_errors():
            self._files.unlink("pinned", digest)
            self._pinned.discard(digest)

    def save_metadata(self, digest: Digest, data: bytes) -> None:
        """Store `data` about a layer until the layer is removed. Raises CacheFailed."""
        with self._lock, self._files.disk_errors():
            self._files.write("notes", digest, data)

    def saved_metadata(self, digest: Digest) -> bytes | None:
        """Return the data stored by `save_metadata`."""
        return self._files.read("notes", digest)

    def save_blocks(self, digest: Digest, blocks: bytes) -> None:
        """Store, to survive a crash, which blocks of a download are on the disk. Raises CacheFailed.

        Only the thread of the layer's download may call this.
        """
        with self._files.disk_errors():
            self._files.write("parts", digest, blocks)

    def saved_blocks(self, digest: Digest) -> bytes | None:
        """Return the data stored by `save_blocks`, None if there is none."""
        return self._files.read("parts", digest)

    def delete_blocks(self, digest: Digest) -> None:
        """Delete the data stored by `save_blocks`. Raises CacheFailed."""
        with self._files.disk_errors():
            self._files.unlink("parts", digest)

    def close(self) -> None:
        """Release the directory. Open layers stay readable. May be called twice."""
        with self._lock:
            self._files.close()

    def _load(self) -> None:
        """Read the directory. Raises OSError."""
        self._files.remove_leftovers()
        self._pinned = set(self._files.digests("pinned"))
        present = set(self._files.digests("layers"))
        self._layers = {
            digest: layer
            for digest, layer in self._layers.items()
            if layer.downloading or (layer.open and digest in present)
        }
        for digest in present:
            if digest not in self._layers:
                self._layers[digest] = layer = self._stored(digest)
                self._latest_use = max(self._latest_use, layer.used)
        excess = sum(layer.size for layer in self._layers.values()) - self.max_bytes
        for digest in self._evictable():
            if excess <= 0:
                break
            excess -= self._layers[digest].size
            self._remove(digest)

    def _stored(self, digest: Digest) -> _Layer:
        """Return the layer in the directory. Raises OSError."""
        state = self._files.path("layers", digest).stat()
        if self._files.is_verified(digest, state):
            used = self._files.path("verified", digest).stat().st_mtime
            return _Layer(state.st_size, used, verified=True)
        return _Layer(self._files.allocated(digest), state.st_mtime)

    def _to_evict(self, digest: Digest, size: int) -> list[Digest]:
        """Return the layers to evict so that `size` bytes fit. Raises CacheFailed if they cannot."""
        if size > self.max_bytes:
            raise CacheFailed(str(self.directory), f"a layer of {size} bytes is larger than the whole cache")
        allocated = self._files.allocated
        others = {known: layer for known, layer in self._layers.items() if known != digest}
        excess = sum(layer.size for layer in others.values()) + size - self.max_bytes
        promised = sum(
            max(0, layer.size - allocated(known)) for known, layer in others.items() if layer.downloading
        )
        free = self._files.free_bytes()
        missing = self.keep_free + promised + max(0, size - allocated(digest)) - free
        evicted = []
        for candidate in self._evictable():
            if excess <= 0 and missing <= 0:
                break
            if candidate != digest:
                evicted.append(candidate)
                excess -= self._layers[candidate].size
                missing -= allocated(candidate)
        if excess <= 0 and missing <= 0:
            return evicted
        why = f"{free} are free on the disk, {self.keep_free} are kept free"
        if excess > 0:
            why = "everything else is in use or pinned"
        raise CacheFailed(str(self.directory), f"no room for {size} bytes: {why}")

    def _evictable(self) -> list[Digest]:
        """Return the layers that may be evicted, in this order: parts of layers, then by last use."""
        evictable = [
            (layer.verified, layer.used, digest)
            for digest, layer in self._layers.items()
            if not (layer.downloading or layer.open or digest in self._pinned)
        ]
        return [digest for _, _, digest in sorted(evictable)]

    def _remove(self, digest: Digest) -> None:
        """Remove a layer, except its pin. Raises OSError."""
        self._files.remove(digest)
        self._layers.pop(digest, None)

    def _report(self, removed: list[Digest]) -> None:
        for digest in removed:
            self.on_removed(digest)

    def _next_use(self) -> float:
        """Return the Unix time, or a later one: the order of uses stays right when the clock is set back."""
        self._latest_use = max(time.time(), self._latest_use + _MIN_TIME_STEP)
        return self._latest_use

    def _closed(self, layer: _Layer) -> None:
        with self._lock:
            layer.open -= 1
