"""The charts of the status page: the queue and brewed layers over time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.units import size
from sql.history import MINUTE, Sample
from web.charts import Series, TimeAxis, area_chart, bar_chart

_HOUR = 3600
_SLOTS = {1: 60, 6: 300, 24: 900, 168: 7200}
"""Ranges of the charts in hours, and the seconds that a slot of each covers."""
_MEANS = {60: "", 300: "mean of 5 minutes", 900: "mean of 15 minutes", 7200: "mean of 2 hours"}
RANGES = {1: "1 hour", 6: "6 hours", 24: "24 hours", 168: "7 days"}


@dataclass(frozen=True)
class Chart:
    """A chart with its title, the legend (name and style), and a note."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...]
    note: str = ""


def axis_of(hours: int, now: int) -> TimeAxis:
    """Return the axis of a chart that ends with the slot of `now`."""
    step = _SLOTS[hours]
    slots = hours * _HOUR // step
    return TimeAxis(start=now - now % step - (slots - 1) * step, step=step, slots=slots)


def charts(recorded: Sequence[Sample], hours: int, now: int) -> list[Chart]:
    """Return the charts of the last `hours`, from the samples of that time."""
    axis = axis_of(hours, now)
    slots: list[list[Sample]] = [[] for _ in range(axis.slots)]
    for sample in recorded:
        if (slot := axis.slot(sample.minute)) is not None:
            slots[slot].append(sample)

    def series(name: str, style: str, value: Callable[[Sample], float], *, largest: bool = False) -> Series:
        """Return the largest or the mean value of each slot, ignoring minutes without a sample."""
        return Series(
            name,
            style,
            [
                None
                if not samples
                else max(map(value, samples))
                if largest
                else sum(map(value, samples)) / len(samples)
                for samples in slots
            ],
        )

    waiting = series("waiting", "accent", lambda one: one.waiting, largest=True)
    set_aside = series("set aside", "bad", lambda one: one.set_aside, largest=True)
    brewed = series("brewed", "accent", lambda one: one.brewed)
    failed = series("failed", "bad", lambda one: one.failed)
    rate = series("read", "accent", lambda one: one.bytes / MINUTE)
    per_slot = _MEANS[axis.step]
    return [
        Chart(
            "Queue",
            area_chart("Layers waiting and set aside over time", axis, [waiting, set_aside]),
            (("waiting", "accent"), ("set aside", "bad")),
        ),
        Chart(
            "Layers brewed a minute",
            bar_chart("Layers brewed and failed attempts a minute", axis, [brewed, failed], _decimal),
            (("brewed", "accent"), ("failed", "bad")),
            per_slot,
        ),
        Chart(
            "Read from the source",
            bar_chart("Bytes of brewed layers a second", axis, [rate], _rate),
            (),
            per_slot,
        ),
    ]


def _decimal(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"


def _rate(value: float) -> str:
    return f"{re.sub(r'[.]0+ ', ' ', size(value))}/s"
