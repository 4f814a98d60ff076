"""Cron expressions have the same meaning in APScheduler as in cron."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from jobs.cron import cron_trigger, with_named_weekdays

SUNDAY = datetime(2026, 11, 22, tzinfo=UTC)


def days_fired(expression: str, days: int = 14) -> list[str]:
    """Return the days on which a job with this expression runs, of `days` days from a Sunday."""
    at = cron_trigger(expression)
    fired = []
    moment: datetime | None = SUNDAY - timedelta(seconds=1)
    while moment is not None and (moment := at.get_next_fire_time(None, moment + timedelta(seconds=1))):
        if moment >= SUNDAY + timedelta(days=days):
            break
        fired.append(f"{moment:%a %d}")
    return fired


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 3 * * 0", ["Sun 22", "Sun 29"]),
        ("0 3 * * 7", ["Sun 22", "Sun 29"]),
        ("0 3 * * sun", ["Sun 22", "Sun 29"]),
        ("0 3 * * 1", ["Mon 23", "Mon 30"]),
        ("0 3 * * 5-1", ["Sun 22", "Mon 23", "Fri 27", "Sat 28", "Sun 29", "Mon 30", "Fri 04", "Sat 05"]),
        ("0 3 * * */3", ["Sun 22", "Wed 25", "Sat 28", "Sun 29", "Wed 02", "Sat 05"]),
        ("0 3 25 * *", ["Wed 25"]),
    ],
)
def test_weekdays_are_numbered_as_in_cron(expression: str, days: list[str]) -> None:
    assert days_fired(expression) == days


def test_with_both_days_restricted_either_matches_as_in_cron() -> None:
    assert days_fired("0 3 25 * 1", days=7) == ["Mon 23", "Wed 25"]


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        ("0 3 */2 * mon", ["Mon 23"]),  # odd days that are Mondays
        ("0 3 23-25 * */2", ["Tue 24"]),
        ("0 3 *,5 * mon", ["Mon 23", "Mon 30"]),
    ],
)
def test_a_day_that_begins_with_a_star_is_not_restricted_as_in_cron(expression: str, days: list[str]) -> None:
    assert days_fired(expression) == days


@pytest.mark.parametrize(
    "expression", ["", "* * * *", "* * * * * *", "0 3 * * 8", "0 3 * * */0", "0 3 * * x-y"]
)
def test_an_invalid_cron_expression_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        with_named_weekdays(expression)
