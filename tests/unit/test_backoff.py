"""Failed tries wait longer and longer, but not for ever."""

from __future__ import annotations

import pytest

from core.backoff import FIRST, LONGEST, delay_after


def test_delays_grow_to_a_bound() -> None:
    delays = [delay_after(attempts) for attempts in range(1, 30)]

    assert delays[0] == FIRST
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST


def test_the_default_of_eight_attempts_outlasts_a_night() -> None:
    assert sum(delay_after(attempts) for attempts in range(1, 8)) > 16 * 3600


@pytest.mark.parametrize("attempts", [-5, 0, 10**9])
def test_edited_counts_do_no_harm(attempts: int) -> None:
    assert FIRST <= delay_after(attempts) <= LONGEST
