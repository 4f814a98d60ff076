"""How long a failed try waits for the next."""

from __future__ import annotations

FIRST = 60
LONGEST = 6 * 3600
_FACTOR = 4


def delay_after(attempts: int) -> int:
    """Seconds until the next try, after `attempts` (1 or more) failed ones: 1, 4, 16, 64 min … 6 h.

    With the default of 8 attempts it is about 18 hours before a layer is set aside, so a registry
    that is down for a night needs no `queue retry`.
    """
    # The exponent is bounded before it is used: attempts come from a table that people edit.
    exponent = min(max(attempts - 1, 0), 10)
    return min(LONGEST, FIRST * int(_FACTOR**exponent))
