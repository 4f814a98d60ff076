"""The state of brewing across runs: outages, and counts for the history."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from core.logs import OutageLog
from jobs.dependency import Dependency
from sql.history import Brews

log = logging.getLogger(__name__)


class Outages:
    """The outages of the dependencies of brewing. Kept across runs, so that each is logged once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.source = Dependency(OutageLog(log, "layer source"), clock)
        self.store = Dependency(OutageLog(log, "metainfo store"), clock)
        self.database = OutageLog(log, "database")


class BrewCounter:
    """Counts the work of brewing across runs, until the counts are taken. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted = Brews()

    def add(self, brews: Brews) -> None:
        """Add these counts."""
        with self._lock:
            self._counted += brews

    def take(self) -> Brews:
        """Return the counts since the last call."""
        with self._lock:
            taken, self._counted = self._counted, Brews()
        return taken
