"""The readers of a layer while it is downloaded: their positions, and the source of their bytes."""

from __future__ import annotations

import threading
import time
from typing import Protocol

from core.errors import CacheFailed, DockerTorrentsError, TimedOut
from node.cache_files import CachedLayer
from node.fallback import ReaderState
from node.origin import PulledLayer


class ByteSource(Protocol):
    """The current source of readers' bytes. `read` is called with the readers' lock held."""

    def read(self, reader: ReaderState, offset: int, limit: int) -> bytes | None:
        """Return bytes at `offset`, None if they are not available yet. Raises OSError."""


class Readers:
    """All readers of one download. Guarded by `changed`, which is notified when one can continue."""

    def __init__(self, layer: PulledLayer, changed: threading.Condition) -> None:
        self._layer = layer
        self._changed = changed
        self._all: dict[int, ReaderState] = {}
        self._source: ByteSource | None = None
        self._cached: CachedLayer | None = None
        self._error: DockerTorrentsError | None = None
        self._has_ended = False

    def __len__(self) -> int:
        return len(self._all)

    def all(self) -> list[ReaderState]:
        """Return the state of each reader."""
        return list(self._all.values())

    def join(self) -> ReaderState | None:
        """Add a reader; None if the download has ended."""
        with self._changed:
            if self._has_ended:
                return None
            reader = ReaderState(time.monotonic())
            self._all[id(reader)] = reader
            return reader

    def leave(self, reader: ReaderState) -> None:
        """Remove a reader. May be called twice."""
        with self._changed:
            self._all.pop(id(reader), None)
            self._close_cached()

    def serve(self, source: ByteSource | None) -> None:
        """Set the source of the readers' bytes; None means that there are none."""
        with self._changed:
            self._source = source
            self._changed.notify_all()

    def finish(self, cached: CachedLayer) -> None:
        """Serve readers from the verified layer, and close it when the last of them has left."""
        with self._changed:
            self._has_ended, self._cached = True, cached
            for reader in self._all.values():
                reader.piece = None
            self._close_cached()
            self._changed.notify_all()

    def fail(self, error: DockerTorrentsError) -> None:
        """End the download with `error`, for readers of bytes that the source does not have."""
        with self._changed:
            self._has_ended, self._error = True, error
            self._changed.notify_all()

    def read(self, reader: ReaderState, offset: int, limit: int, timeout: float) -> bytes:
        """Return 1 to `limit` bytes from `offset` on, waiting until they are available; b"" only at the end.

        Any order of offsets is allowed. Raises the error of the download or of this reader, CacheFailed if
        the file cannot be read, TimedOut after `timeout` seconds without a byte.
        """
        if offset >= self._layer.size or limit <= 0:
            return b""
        until = time.monotonic() + timeout
        with self._changed:
            reader.offset, reader.waiting_since = offset, time.monotonic()
            announced = False
            try:
                while True:
                    if data := self._bytes(reader, offset, limit):
                        reader.received += len(data)
                        return data
                    if (error := self._error or reader.error) is not None:
                        reader.error = None
                        raise error
                    if (left := until - time.monotonic()) <= 0:
                        raise TimedOut(f"layer {self._layer.digest}", timeout)
                    if not announced:
                        # A download by HTTP may have to begin a request for it.
                        announced = True
                        self._changed.notify_all()
                    self._changed.wait(left)
                    reader.waited = time.monotonic()
            finally:
                reader.waiting_since = None

    def _bytes(self, reader: ReaderState, offset: int, limit: int) -> bytes | None:
        try:
            if self._cached is not None:
                return self._cached.read(offset, limit)
            return self._source.read(reader, offset, limit) if self._source is not None else None
        except OSError as error:
            raise CacheFailed(f"file of {self._layer.digest}", error.strerror or str(error)) from error

    def _close_cached(self) -> None:
        if self._cached is not None and not self._all:
            self._cached.close()
            self._cached = None
