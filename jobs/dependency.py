"""The layer source or the metainfo store as a whole, whose outage pauses brewing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from core.errors import DockerTorrentsError, TooManyRequests
from core.logs import OutageLog

_MIN_PAUSE, _MAX_PAUSE = 10.0, 600.0
"""Seconds for which a dependency that limits the rate of requests is left alone."""

Probe = Callable[[], object]
"""Makes a request that succeeds while the dependency works, and raises DockerTorrentsError otherwise: that
distinguishes an outage from the failure of a single layer.
"""


class Dependency:
    """Whether a dependency of brewing works, kept across runs. Thread-safe.

    One that limits the rate of requests counts as down, and is left alone as long as it demands.
    """

    def __init__(self, log: OutageLog, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._lock = threading.Lock()
        self._left_alone_until = clock()
        self.outage: str | None = None
        """The last error, None while it works."""

    def is_down(self, probe: Probe, error: DockerTorrentsError | None = None) -> bool:
        """Probe it after a failure, `error`, once per outage. Return whether it is down."""
        with self._lock:
            if isinstance(error, TooManyRequests):
                self._failed(error)
            return self.outage is not None or not self._works(probe)

    def resume(self, probe: Probe) -> bool:
        """Probe it if it was down, in this run or the one before. Return whether it works."""
        with self._lock:
            if self._clock() < self._left_alone_until:
                return False
            return self.outage is None or self._works(probe)

    def _works(self, probe: Probe) -> bool:
        try:
            probe()
        except DockerTorrentsError as error:
            self._failed(error)
        else:
            self.outage = None
            self._log.succeeded()
        return self.outage is None

    def _failed(self, error: DockerTorrentsError) -> None:
        if isinstance(error, TooManyRequests):
            seconds = min(max(error.retry_after or 0.0, _MIN_PAUSE), _MAX_PAUSE)
            self._left_alone_until = self._clock() + seconds
        self.outage = str(error)
        self._log.failed(f"brewing is paused: {error}")
