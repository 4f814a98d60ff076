"""A pace that is not exceeded: so many steps a second."""

from __future__ import annotations

import time
from collections.abc import Callable


class Pace:
    """Spaces calls of `wait` by at least 1/`rate` seconds; a rate of None does not wait at all."""

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

    def wait(self) -> None:
        """Returns when the next step may be taken. What was not used up is not saved for a burst."""
        if not self._gap:
            return
        now = self._clock()
        if self._next > now:
            self._sleep(self._next - now)
        self._next = max(now, self._next) + self._gap
