"""A layer downloaded from the registry, until it is complete or has a torrent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from node.cache import Cache
from node.counters import Counters
from node.fallback import ReaderState
from node.http_download import HttpDownload, HttpFile
from node.metainfo import Metainfo
from node.origin import Origin, PulledLayer

LARGE_LAYER = 16 * 1024 * 1024
"""Torrents of layers from this size on are requested again during the download: they may be being brewed."""
TORRENT_RETRY_SECONDS = 5.0
_MAX_TORRENT_RETRY_SECONDS = 60.0
_SAVE_SECONDS = 5.0
"""How often the progress is stored, to survive a crash."""


class RegistryDownload:
    """Fills the layer's file at `path`; a ByteSource meanwhile.

    `origin` returns the registry with the newest credentials, `torrent` requests the layer's torrent,
    `readers` returns the state of each reader.
    """

    def __init__(
        self,
        layer: PulledLayer,
        path: Path,
        cache: Cache,
        origin: Callable[[], Origin],
        torrent: Callable[[], Metainfo | None],
        readers: Callable[[], list[ReaderState]],
        changed: threading.Condition,
        counters: Counters,
    ) -> None:
        self._layer = layer
        self._cache = cache
        self._torrent = torrent
        self._file = HttpFile(path, layer.size, cache.saved_blocks(layer.digest))
        self._streams = HttpDownload(layer, self._file, origin, readers, changed, counters)
        self._found: Metainfo | None = None
        self._next_request = self._next_save = 0.0
        self._pause = TORRENT_RETRY_SECONDS
        self._stopped = False

    @property
    def done(self) -> int:
        """The number of bytes present."""
        return self._file.done

    def read(self, reader: ReaderState, offset: int, limit: int) -> bytes | None:
        """See ByteSource."""
        return self._file.read(offset, limit)

    def run(self) -> Metainfo | None:
        """Download. Return the layer's torrent if one appears before the end, None if the layer is complete.

        End early after `stop`. Raises RemoteError, OSError, CacheFailed.
        """
        self._next_request = time.monotonic() + TORRENT_RETRY_SECONDS
        self._next_save = time.monotonic() + _SAVE_SECONDS
        self._streams.run(self._tick)
        return self._found

    def stop(self) -> None:
        """Make `run` end soon."""
        self._stopped = True

    def save_blocks(self) -> None:
        """Let the next download continue from the received bytes. Raises OSError, CacheFailed."""
        self._cache.save_blocks(self._layer.digest, self._file.sync())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _tick(self) -> bool:
        """Do periodic work. Return whether to end now."""
        if self._stopped:
            return True
        if time.monotonic() >= self._next_save:
            self.save_blocks()
            self._next_save = time.monotonic() + _SAVE_SECONDS
        if self._layer.size >= LARGE_LAYER and time.monotonic() >= self._next_request:
            self._pause = min(_MAX_TORRENT_RETRY_SECONDS, self._pause * 1.5)
            self._next_request = time.monotonic() + self._pause
            self._found = self._torrent()
        return self._found is not None
