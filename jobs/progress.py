"""The progress of a one-off job: a bar on a terminal, otherwise occasional log lines."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

EVERY = 30.0
"""Seconds between log lines without a terminal."""


class Progress:
    """Counts steps of `unit`. `total` is None if it is unknown, and may grow.

    If standard error is a terminal, it shows a bar. Otherwise a step is logged if the last line is `EVERY`
    seconds old, with the estimated time left. `clock` returns seconds.
    """

    def __init__(
        self, name: str, unit: str, total: int | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        from tqdm import tqdm

        self._name = name
        self._unit = unit
        self._bar = tqdm(
            desc=name, unit=f" {unit}", total=total, disable=not sys.stderr.isatty(), dynamic_ncols=True
        )
        self._done = 0
        self._total = total
        self._clock = clock
        self._started = self._logged = clock()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def expect(self, more: int) -> None:
        """Add `more` steps to the total."""
        self._total = (self._total or 0) + more
        self._bar.total = self._total
        self._bar.refresh()

    def estimate(self, total: int) -> None:
        """Set the estimated total."""
        self._total = self._bar.total = total

    def step(self, number: int = 1, note: str = "") -> None:
        """Count `number` steps as done; `note` is shown with them."""
        self._done += number
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(number)
        now = self._clock()
        if self._bar.disable and now - self._logged >= EVERY:
            self._logged = now
            log.info(
                "progress name=%s done=%d total=%s unit=%s eta=%s note=%s",
                *(self._name, self._done, self._total or "?", self._unit, self._eta(now), note or "-"),
            )

    def _eta(self, now: float) -> str:
        """Return the time left as `[h:]mm:ss`, or `?`."""
        if not self._total or not self._done:
            return "?"
        left = max(0, self._total - self._done)
        return self._bar.format_interval(left * (now - self._started) / self._done)
