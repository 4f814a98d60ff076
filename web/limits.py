"""Limits on concurrent requests of a worker: a silent registry or slow downloads leave threads for others."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from core.metrics import WAIT_SECONDS
from web.errors import unavailable

log = logging.getLogger(__name__)

REGISTRY_REQUESTS = 96
"""Requests that may wait for the registry at once."""
REGISTRY_WAITING = 512

DOWNLOADS = 128
"""Layers that are sent at once."""
DOWNLOADS_WAITING = 256
"""Downloads that wait for a slot. A torrent client that gets a 503 never asks that web seed again."""

NOTIFICATIONS = 64
"""Notifications that are handled at once; with a database that hangs, each takes seconds."""

THREADS = REGISTRY_REQUESTS + REGISTRY_WAITING + DOWNLOADS + DOWNLOADS_WAITING + NOTIFICATIONS + 48
"""Threads of a worker, started when needed: all that may wait, and some for the rest (`/ping`)."""


class ConcurrencyLimit:
    """At most `limit` requests at once. At most `waiting` more wait for a slot, up to `seconds`.

    The others get 503. `name` is for messages; `resource` is the label in the metric of waiting.
    """

    def __init__(
        self, name: str, limit: int, *, waiting: int = 0, seconds: float = 0.0, resource: str | None = None
    ) -> None:
        self._name = name
        self._slots = threading.BoundedSemaphore(limit)
        self._room = threading.BoundedSemaphore(waiting) if waiting else None
        self._seconds = seconds
        self._resource = resource

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot for the length of the block. Raises bottle.HTTPResponse (503) if none becomes free."""
        if not (self._slots.acquire(blocking=False) or self._wait()):
            log.warning("request refused: too many at once limit=%s", self._name)
            raise unavailable(f"too many {self._name} at once")
        try:
            yield
        finally:
            self._slots.release()

    def _wait(self) -> bool:
        """Return whether a slot became free in time."""
        if self._room is None or not self._room.acquire(blocking=False):
            return False
        try:
            with WAIT_SECONDS.timed(self._resource) if self._resource else nullcontext():
                return self._slots.acquire(timeout=self._seconds)
        finally:
            self._room.release()

    def limit(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """Return a route's callback that holds a slot while it runs (a Bottle plugin)."""

        def limited(*args: Any, **kwargs: Any) -> Any:
            with self.slot():
                return callback(*args, **kwargs)

        return limited


class DatabasePause:
    """Pauses queries for a while after a failure, then lets one caller at a time try again.

    `timer` returns seconds. Thread-safe.
    """

    SECONDS = 2.0

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._lock = threading.Lock()
        self._until: float | None = None

    def may_query(self) -> bool:
        """Return whether to query the database now; afterwards call `failed` or `answered`."""
        if self._until is None:
            return True
        with self._lock:
            now = self._timer()
            if self._until is not None and now < self._until:
                return False
            if self._until is not None:
                self._until = now + self.SECONDS
            return True

    def failed(self) -> None:
        """Record that the database did not answer."""
        with self._lock:
            self._until = self._timer() + self.SECONDS

    def answered(self) -> None:
        """Record that the database answered, which ends the pause."""
        self._until = None
