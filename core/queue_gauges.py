"""The queue's gauges: read from the database in a thread, so that no scrape hangs with it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from core.errors import DatabaseError
from core.metrics import DATABASE_UP, LAST_BREWED, QUEUE_LAYERS, QUEUE_OLDEST, Readings

WAIT_SECONDS = 1.0
"""How long a scrape waits for new values; then it gets the previous ones."""

KEEP_SECONDS = 10.0
"""How long values are used before they are read again."""

KEEP_TIMES = 20
"""Values that took long to read are kept for this many times as long."""

HANGING_SECONDS = 10.0
"""A database that has not answered for this long counts as down."""

log = logging.getLogger(__name__)


def queue_readings(
    layers: Mapping[tuple[str, str], int], oldest_waiting: Mapping[str, int], last_brewed: int | None
) -> Readings:
    """Return the gauges of the queue for what sql/queue_counts.py has read (its QueueMetrics)."""
    return {
        QUEUE_LAYERS: {labels: float(number) for labels, number in layers.items()},
        QUEUE_OLDEST: {(priority,): float(seconds) for priority, seconds in oldest_waiting.items()},
        LAST_BREWED: {} if last_brewed is None else {(): float(last_brewed)},
    }


class QueueGauges:
    """Gauges that `read` queries from the database. Thread-safe. `timer` returns seconds."""

    def __init__(self, read: Callable[[], Readings], timer: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._timer = timer
        self._changed = threading.Condition()
        self._values: Readings | None = None
        self._due = timer()
        self._reading_since: float | None = None

    def readings(self) -> Readings:
        """Return the latest values, and whether the database answers; if it does not, only that."""
        with self._changed:
            if self._reading_since is None and self._timer() >= self._due:
                # If it does not start, the next scrape tries again.
                threading.Thread(target=self._refresh, name="queue gauges", daemon=True).start()
                self._reading_since = self._timer()
            self._changed.wait_for(lambda: self._reading_since is None, WAIT_SECONDS)
            begun = self._reading_since
            hangs = begun is not None and self._timer() - begun > HANGING_SECONDS
            if self._values is None or hangs:
                return {DATABASE_UP: {(): 0.0}}
            return {DATABASE_UP: {(): 1.0}, **self._values}

    def _refresh(self) -> None:
        values: Readings | None = None
        begun = self._timer()
        try:
            values = self._read()
        except DatabaseError as error:
            log.debug("queue not counted reason=%s", error)
        finally:
            with self._changed:
                self._values = values
                self._reading_since = None
                self._due = self._timer() + max(KEEP_SECONDS, KEEP_TIMES * (self._timer() - begun))
                self._changed.notify_all()
