"""Failures: telling one broken item from a server that is down, and delays of retries."""

from __future__ import annotations

from collections.abc import Callable

from core.errors import NO_ANSWER, DockerTorrentsError, Refused, TooManyRequests

FIRST_DELAY = 60
MAX_DELAY = 6 * 3600
_FACTOR = 4


class FailureStreak:
    """Counts requests in a row that were not answered, and calls `probe` after every `limit` of them.

    A registry answers 500 for a manifest whose file is damaged and 200 for all others, so failures alone do
    not show that it is down. `probe` makes a request that every working server answers, and raises
    DockerTorrentsError otherwise. Without a probe the server counts as down.
    """

    def __init__(self, probe: Callable[[], object] | None, limit: int) -> None:
        self._probe = probe
        self._limit = limit
        self._length = 0

    def succeeded(self) -> None:
        """End the streak."""
        self._length = 0

    def failed(self, error: Exception) -> bool:
        """Count `error` if it is one of NO_ANSWER. Return whether the server is down.

        One that limits the rate of requests is: it would refuse the next ones too.
        """
        if isinstance(error, TooManyRequests):
            self._length = 0
            return True
        if isinstance(error, NO_ANSWER):
            return self.unanswered()
        self._length = 0
        return False

    def unanswered(self) -> bool:
        """Count a request that was not answered. Return whether the server is down."""
        self._length += 1
        if self._length < self._limit:
            return False
        self._length = 0
        if self._probe is None:
            return True
        try:
            self._probe()
        except Refused:
            return False  # It answers, though not to these credentials.
        except DockerTorrentsError:
            return True
        return False


def delay_after(attempts: int) -> int:
    """Return the seconds until the next attempt, after `attempts` (1 or more) failed ones: 1, 4, 16, 64 min …
    6 h.

    With the default of 8 attempts it is about 18 hours before a layer is set aside, so a registry
    that is down for a night needs no `queue retry`.
    """
    # The exponent is bounded: attempts come from a table that people may edit.
    exponent = min(max(attempts - 1, 0), 10)
    return min(MAX_DELAY, FIRST_DELAY * int(_FACTOR**exponent))
