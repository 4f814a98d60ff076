"""Tell which blobs of a storage are layers, by their first bytes. Several blobs are read at once."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from core.blobs.source import BlobStorage
from core.errors import LayerError, NotFound, RemoteError, Unavailable
from core.failures import FailureStreak
from core.layer import HEAD_BYTES, Layer, looks_like_layer
from core.pace import Pace

log = logging.getLogger(__name__)

_SECONDS = 2.0
"""How long blobs are read before those found to be layers are returned."""

_MAX_FAILURES = 20
"""Consecutive unreadable blobs after which the storage itself is probed."""


@dataclass
class Detected:
    """The first `read` of some blobs: `layers`, and how many are `others` or could not be read."""

    layers: list[Layer] = field(default_factory=list)
    read: int = 0
    others: int = 0
    unread: int = 0


class LayerDetector:
    """Reads blobs of `storage`, `readers` at once, at the `pace`.

    It reads no more once `stop` is set or the storage is `down`, which is then its error.
    """

    def __init__(self, storage: BlobStorage, readers: int, pace: Pace, stop: threading.Event) -> None:
        self.down: RemoteError | LayerError | None = None
        self._storage = storage
        self._readers = readers
        self._pace = pace
        self._stop = stop
        self._readable: Layer | None = None
        """The last blob that could be read."""
        self._streak = FailureStreak(self._read_again, _MAX_FAILURES)

    def detect(self, blobs: Sequence[Layer], pool: ThreadPoolExecutor) -> Detected:
        """Read as many of the blobs as can be in _SECONDS, and at least one."""
        detected = Detected()
        reading: deque[tuple[Layer, Future[bool]]] = deque()
        until = time.monotonic() + _SECONDS
        for blob in blobs:
            self._pace.wait()
            if self._ended() or (detected.read and time.monotonic() >= until):
                break
            detected.read += 1
            reading.append((blob, pool.submit(_is_layer, self._storage, blob)))
            # Not all at once: after a stop, or if the storage stops responding, the rest is not read.
            if len(reading) == 2 * self._readers:
                self._collect(*reading.popleft(), detected)
        while reading:
            if self._ended() and reading[-1][1].cancel():
                # From the end: the next run continues behind the last blob that was read.
                reading.pop()
                detected.read -= 1
            else:
                self._collect(*reading.popleft(), detected)
        return detected

    def _ended(self) -> bool:
        return self._stop.is_set() or self.down is not None

    def _collect(self, blob: Layer, is_layer: Future[bool], detected: Detected) -> None:
        """Wait for the result of a blob, and count it."""
        try:
            if is_layer.result():
                detected.layers.append(blob)
            else:
                detected.others += 1
            self._readable = blob
            self._streak.succeeded()
        except NotFound:
            log.info("blob removed during the backfill digest=%s", blob.digest)
        except (RemoteError, LayerError) as error:
            detected.unread += 1
            log.warning("blob not read digest=%s reason=%s", blob.digest, error)
            if self._streak.failed(error):
                self.down = error

    def _read_again(self) -> None:
        """Read again the last blob that could be read. Raises RemoteError, also if there is none."""
        if self._readable is None:
            raise Unavailable("storage", "no blob can be read")
        _is_layer(self._storage, self._readable)


def _is_layer(storage: BlobStorage, blob: Layer) -> bool:
    """Return whether a blob is a layer, by one read of its beginning."""
    head = bytearray(min(HEAD_BYTES, blob.size or HEAD_BYTES))
    filled = 0
    with storage.open(blob, 0, len(head)) as reader:
        while filled < len(head) and (count := reader.readinto(memoryview(head)[filled:])):
            filled += count
    return looks_like_layer(bytes(head[:filled]))
