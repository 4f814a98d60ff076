"""Delays between attempts grow up to a limit."""

from __future__ import annotations

import pytest

from core.failures import FIRST_DELAY, MAX_DELAY, delay_after


def test_delays_grow_to_a_bound() -> None:
    delays = [delay_after(attempts) for attempts in range(1, 30)]

    assert delays[0] == FIRST_DELAY
    assert delays == sorted(delays)
    assert delays[-1] == MAX_DELAY


def test_the_default_of_eight_attempts_outlasts_a_night() -> None:
    assert sum(delay_after(attempts) for attempts in range(1, 8)) > 16 * 3600


@pytest.mark.parametrize("attempts", [-5, 0, 10**9])
def test_out_of_range_counts_are_accepted(attempts: int) -> None:
    assert FIRST_DELAY <= delay_after(attempts) <= MAX_DELAY
