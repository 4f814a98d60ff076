"""A layer downloaded from the registry, until it is complete or has a torrent."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from node.cache import Cache
from node.counters import Counters
from node.fallback import Progress
from node.http_download import HttpDownload, HttpFile
from node.metainfo import Metainfo
from node.origin import Origin, PulledLayer

LARGE = 16 * 1024 * 1024
"""Torrents of layers from this size on are requested again meanwhile: they may be being brewed."""
ASK_AGAIN = 5.0
_LONGEST_ASK_AGAIN = 60.0
_KEEP_SECONDS = 5.0
"""How often the progress is stored, to survive a crash."""


class RegistryDownload:
    """Fills the layer's file at `path`; a ByteSource meanwhile.

    `origin` returns the registry with the newest credentials, `torrent` requests the layer's torrent,
    `readers` returns the progress of each reader.
    """

    def __init__(
        self,
        layer: PulledLayer,
        path: Path,
        cache: Cache,
        origin: Callable[[], Origin],
        torrent: Callable[[], Metainfo | None],
        readers: Callable[[], list[Progress]],
        changed: threading.Condition,
        counters: Counters,
    ) -> None:
        self._layer = layer
        self._cache = cache
        self._torrent = torrent
        self._file = HttpFile(path, layer.size, cache.part(layer.digest))
        self._streams = HttpDownload(layer, self._file, origin, readers, changed, counters)
        self._found: Metainfo | None = None
        self._ask_at = self._keep_at = 0.0
        self._pause = ASK_AGAIN
        self._stopped = False

    @property
    def done(self) -> int:
        """The number of bytes present."""
        return self._file.done

    def read(self, reader: Progress, offset: int, limit: int) -> bytes | None:
        """See ByteSource."""
        return self._file.read(offset, limit)

    def run(self) -> Metainfo | None:
        """Download. Return the layer's torrent if one appears before the end, None if the layer is complete.

        End early after `stop`. Raises RemoteError, OSError, CacheFailed.
        """
        self._ask_at, self._keep_at = time.monotonic() + ASK_AGAIN, time.monotonic() + _KEEP_SECONDS
        self._streams.run(self._tick)
        return self._found

    def stop(self) -> None:
        """Make `run` end soon."""
        self._stopped = True

    def keep_part(self) -> None:
        """Let the next download continue from the received bytes. Raises OSError, CacheFailed."""
        self._cache.keep_part(self._layer.digest, self._file.sync())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _tick(self) -> bool:
        """Do periodic work. Return whether to end now."""
        if self._stopped:
            return True
        if time.monotonic() >= self._keep_at:
            self.keep_part()
            self._keep_at = time.monotonic() + _KEEP_SECONDS
        if self._layer.size >= LARGE and time.monotonic() >= self._ask_at:
            self._pause = min(_LONGEST_ASK_AGAIN, self._pause * 1.5)
            self._ask_at = time.monotonic() + self._pause
            self._found = self._torrent()
        return self._found is not None
