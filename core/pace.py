"""A limit on steps per second."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Spaces calls of `wait` by at least 1/`rate` seconds; without a rate it never waits."""

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._clock = clock
        self._sleep = sleep
        self._next = clock()

    def pause(self, seconds: float) -> None:
        """Wait that long, as the server demands."""
        self._sleep(seconds)

    def wait(self, steps: int = 1) -> None:
        """Wait until the next `steps` may be taken. Unused time does not allow a burst."""
        if not self._gap:
            return
        now = self._clock()
        if self._next > now:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + self._gap * steps
