"""The settings of brewing, and its state across runs: outages, and counts for the history."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Engine

from core.blobs.source import BlobSource
from core.logs import OutageLog
from core.torrents.store import MetainfoStore
from jobs.dependency import Dependency
from sql.history import Brews
from sql.tables import Tables
from sql.transaction import Clock, database_time

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


@dataclass(frozen=True)
class BrewSettings:
    """The settings of a run. Times are in seconds; `brewer` is the name shown to operators; `backend` is the
    source in metrics.
    """

    engine: Engine
    tables: Tables
    source: BlobSource
    store: MetainfoStore
    brewer: str
    backend: str = "registry"
    private: bool = True
    workers: int = 4
    connections: int = 8
    layers_per_chunk: int = 10
    brew_discard_timeout: int = 300
    sleep_time: float = 10.0
    max_attempts: int = 8
    clock: Clock = database_time
    outages: Outages = field(default_factory=Outages)
    counter: BrewCounter = field(default_factory=BrewCounter)
