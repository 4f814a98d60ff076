"""A bounded cache of facts about layers, so that the next range of one needs no second lookup."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from core.digest import Digest

_Known = TypeVar("_Known")

# More layers than are brewed at a time, and few enough not to matter.
_KEPT = 1024


class Recent(Generic[_Known]):
    """A fact about each of the last layers; the oldest are dropped. Threads may share it."""

    def __init__(self, kept: int = _KEPT) -> None:
        self._kept = kept
        self._known: dict[Digest, _Known] = {}
        self._lock = threading.Lock()

    def get(self, digest: Digest) -> _Known | None:
        """Return the fact about this layer, or None."""
        with self._lock:
            return self._known.get(digest)

    def put(self, digest: Digest, known: _Known) -> None:
        """Store a fact, replacing an earlier one."""
        with self._lock:
            self._known.pop(digest, None)
            self._known[digest] = known
            while len(self._known) > self._kept:
                del self._known[next(iter(self._known))]

    def forget(self, digest: Digest) -> None:
        """Drop the fact about this layer."""
        with self._lock:
            self._known.pop(digest, None)
