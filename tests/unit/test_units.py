"""Durations and sizes for people."""

from __future__ import annotations

import pytest

from core.units import size, span


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0 bytes"), (999, "999 bytes"), (1000, "1.00 kB"), (29_536_818, "29.5 MB"), (999_400, "999 kB"),
        (999_600, "1.00 MB"), (9_996_000, "10.0 MB"), (120_000_000_000, "120 GB"), (7 * 10**18, "7000 PB"),
    ],
)  # fmt: skip
def test_sizes_have_three_digits_and_a_unit(number: int, shown: str) -> None:
    assert size(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (12_000, "3 h 20 min"), (200_000, "2 d 7 h")],
)
def test_durations_are_in_their_two_largest_units(seconds: float, shown: str) -> None:
    assert span(seconds) == shown
