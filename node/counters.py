"""The node's counters since its start: bytes by source, and fallbacks by reason."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Literal

ByteOrigin = Literal["peers", "web_seed", "registry", "cache"]
FallbackReason = Literal[
    "no_torrent",
    "bad_torrent",
    "stalled",
    "swarm_service",
    "web_seed",
    "cache_full",
    "disk_error",
    "restarted",
]


@dataclass(frozen=True, slots=True)
class Totals:
    """Counters since the start. `origins` has bytes by origin, `uploaded` bytes sent to peers."""

    origins: dict[str, int]
    uploaded: int
    fallbacks: dict[str, int]


class Counters:
    """Thread-safe counters. `parent` counts the same events."""

    def __init__(self, parent: Counters | None = None) -> None:
        self._parent = parent
        self._lock = threading.Lock()
        self._origins: Counter[str] = Counter(peers=0, web_seed=0, registry=0, cache=0)
        self._fallbacks: Counter[str] = Counter()
        self._uploaded = 0

    def received(self, origin: ByteOrigin, count: int) -> None:
        """Count useful bytes of a layer."""
        with self._lock:
            self._origins[origin] += count
        if self._parent is not None:
            self._parent.received(origin, count)

    def fell_back(self, reason: FallbackReason) -> None:
        """Count a use of the registry instead of the swarm."""
        with self._lock:
            self._fallbacks[reason] += 1
        if self._parent is not None:
            self._parent.fell_back(reason)

    def uploaded(self, count: int) -> None:
        """Count bytes sent to peers."""
        with self._lock:
            self._uploaded += count
        if self._parent is not None:
            self._parent.uploaded(count)

    def totals(self) -> Totals:
        """Return all counters."""
        with self._lock:
            return Totals(dict(self._origins), self._uploaded, dict(self._fallbacks))
