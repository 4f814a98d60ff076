"""Tells a server that is down from single things that it cannot give."""

from __future__ import annotations

import threading
from collections.abc import Callable

from core.errors import DockerTorrentsError

MAX_CONSECUTIVE_FAILURES = 5
"""Requests that fail one after the other before the server is probed."""


class OutageDetector:
    """Counts consecutive failures of a server; at `limit` it is probed, and is down only if that fails too.

    A few broken tags or blobs in a row are no outage: `probe` asks for something that a working server always
    gives, and raises DockerTorrentsError if it does not. For any number of threads.
    """

    def __init__(
        self,
        probe: Callable[[], object],
        limit: int = MAX_CONSECUTIVE_FAILURES,
    ) -> None:
        self._probe = probe
        self._limit = limit
        self._lock = threading.Lock()
        self._failures = 0
        self.outage: DockerTorrentsError | None = None
        """What the probe raised, if the server is down."""

    def succeeded(self) -> None:
        """Note that the server gave an answer, whatever it says."""
        self._failures = 0
        self.outage = None

    def failed(self) -> bool:
        """Note that it gave none. Return whether the server is down."""
        with self._lock:
            if self.outage is not None:
                return True
            self._failures += 1
            if self._failures < self._limit:
                return False
            self._failures = 0
            return self._probed_down()

    def is_down(self) -> bool:
        """Probe the server now, and return whether it is down."""
        with self._lock:
            return self._probed_down()

    def _probed_down(self) -> bool:
        try:
            self._probe()
        except DockerTorrentsError as error:
            self.outage = error
        else:
            self.outage = None
        return self.outage is not None
