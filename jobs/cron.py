"""Cron expressions (crontab(5)), read by APScheduler's triggers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger

_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def longest_pause(cron: str, now: datetime) -> float:
    """Return the longest pause, in seconds, between two of the next ten runs by a cron expression."""
    when = cron_trigger(cron)
    times = [when.get_next_fire_time(None, now)]
    while times[-1] is not None and len(times) < 10:
        times.append(when.get_next_fire_time(times[-1], times[-1] + timedelta(seconds=1)))
    pauses: list[float] = [(b - a).total_seconds() for a, b in pairwise(times) if b is not None]
    return max(pauses)


def cron_trigger(expression: str) -> BaseTrigger:
    """Return APScheduler's trigger for a cron expression (crontab(5)), in UTC.

    Raises ValueError if it is invalid, or names a day that no month has.
    """
    minute, hour, day, month, weekday = with_named_weekdays(expression).split()
    times = {"minute": minute, "hour": hour, "month": month, "timezone": "UTC"}
    when: BaseTrigger
    if any(expression.split()[field].startswith("*") for field in (2, 4)):
        when = CronTrigger(day=day, day_of_week=weekday, **times)
    else:
        # crontab(5): with both days restricted, either may match. `*/2` does not count as restricted.
        when = OrTrigger([CronTrigger(day=day, **times), CronTrigger(day_of_week=weekday, **times)])
    if when.get_next_fire_time(None, _SOME_DAY) is None:
        raise ValueError(f"that date never occurs: {expression!r}")
    return when


def with_named_weekdays(expression: str) -> str:
    """Return `expression` (minute, hour, day, month, weekday) with its weekdays as names.

    The numbers differ: Sunday is 0 for cron, Monday for APScheduler. A range over the end of the week (`5-1`)
    is spelled out. Raises ValueError if there are not five fields.
    """
    fields = expression.split()
    if len(fields) != 5:
        raise ValueError(f"expected the five fields of cron, got {len(fields)}: {expression!r}")
    fields[4] = ",".join(_weekdays(part) for part in fields[4].lower().split(","))
    return " ".join(fields)


def _weekdays(part: str) -> str:
    span, _, step = part.partition("/")
    if span == "*":
        if not step:
            return "*"
        days = list(range(7))
    else:
        first, dash, last = span.partition("-")
        start = _day(first)
        if not dash and not step:
            return _DAYS[start % 7]
        end = _day(last) if dash else 6
        days = list(range(start, end + 1)) if start <= end else [*range(start, 7), *range(end + 1)]
    if step and (not step.isdigit() or int(step) == 0):
        raise ValueError(f"expected a step of 1 or more after /, got {part!r}")
    return ",".join(dict.fromkeys(_DAYS[day % 7] for day in days[:: int(step or 1)]))


def _day(text: str) -> int:
    if text in _DAYS:
        return _DAYS.index(text)
    if text.isdigit() and int(text) <= 7:
        return int(text)
    raise ValueError(f"expected a weekday, 0 to 7 or sun to sat, got {text!r}")
