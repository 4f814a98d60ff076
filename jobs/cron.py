"""Cron's five fields as APScheduler reads them: the weekdays differ (Sunday = 0, Monday = 0 there)."""

from __future__ import annotations

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


def with_named_weekdays(expression: str) -> str:
    """`expression` (crontab(5): minute, hour, day, month, weekday) with its weekdays spelled out.

    Raises ValueError if it has not five fields. A range over the week's end (`5-1`) is written out,
    since Sunday is the first day for cron and the last for APScheduler.
    """
    fields = expression.split()
    if len(fields) != 5:
        raise ValueError(f"expected five fields of cron, got {len(fields)}: {expression!r}")
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
