"""What was found out about a layer a moment ago, so that its next range need not ask again."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from core.digest import Digest

_Known = TypeVar("_Known")

# More layers than are brewed at a time, and few enough to be of no weight.
_KEPT = 1024


class Recent(Generic[_Known]):
    """Something known of each of the last layers; the oldest are forgotten. Threads may share it."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._known: dict[Digest, _Known] = {}
        self._lock = threading.Lock()

    def get(self, digest: Digest) -> _Known | None:
        """What is known of this layer."""
        with self._lock:
            return self._known.get(digest)

    def put(self, digest: Digest, known: _Known) -> None:
        """Remember it, in the place of what was known before."""
        with self._lock:
            self._known.pop(digest, None)
            self._known[digest] = known
            while len(self._known) > self._kept:
                del self._known[next(iter(self._known))]

    def forget(self, digest: Digest) -> None:
        """It turned out to be wrong."""
        with self._lock:
            self._known.pop(digest, None)
