"""Charts as inline SVG: areas and stacked bars over time, and meters. Pure; status.css has their colours.

Positions are percentages, so a chart is as wide as its column while its text keeps its size. Each slot of
time has a `title`, which browsers show as a tooltip without any script.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape

_TOP, _BOTTOM, _HEIGHT, _GUTTER = 8, 148, 172, 64
"""Pixels: where the plot begins and ends, the height with the times below it, the width of the numbers."""

_DAY = 86_400
_NICE = (1, 2, 4, 6, 8, 10)
_TICK_SECONDS = (300, 600, 900, 1800, 3600, 7200, 4 * 3600, 6 * 3600, 12 * 3600, _DAY, 2 * _DAY)
_MAX_TICKS = 7


@dataclass(frozen=True)
class TimeAxis:
    """`slots` slots of `step` seconds each, the first from `start` on (Unix seconds)."""

    start: int
    step: int
    slots: int

    def slot(self, time: int) -> int | None:
        """Return the number of the slot that holds `time`, None if it is outside."""
        number = (time - self.start) // self.step
        return number if 0 <= number < self.slots else None


@dataclass(frozen=True)
class Series:
    """Values by slot, None if unknown. `style` is a class of the style sheet."""

    name: str
    style: str
    values: Sequence[float | None]


def area_chart(label: str, axis: TimeAxis, series: Sequence[Series]) -> str:
    """Return series as filled lines, each from zero, with gaps where values are unknown.

    `label` describes the chart.
    """
    top = _nice_top(max((value for one in series for value in _known(one)), default=0.0))
    plot = "".join(
        f'<path class="{one.style} area" d="{_closed(run, top)}"/>'
        f'<path class="{one.style} line" d="{_line(run, top)}"/>'
        for one in series
        if any(one.values)
        for run in _runs(one.values)
    )
    return _chart(label, axis, series, top, "{:,.0f}".format, plot)


def bar_chart(
    label: str, axis: TimeAxis, series: Sequence[Series], show: Callable[[float], str] = "{:,.0f}".format
) -> str:
    """Return series as bars, the first at the bottom and the others stacked on it. `show` formats a value."""
    heights = [sum(one.values[slot] or 0.0 for one in series) for slot in range(axis.slots)]
    top = _nice_top(max(heights, default=0.0))
    bars: list[str] = []
    for slot in range(axis.slots):
        below = 0.0
        for one in series:
            if value := one.values[slot]:
                height = 100 * value / top
                bars.append(
                    f'<rect class="{one.style} bar" x="{slot + 0.12:.2f}" width="0.76" '
                    f'y="{100 - below - height:.2f}" height="{height:.2f}"/>'
                )
                below += height
    return _chart(label, axis, series, top, show, "".join(bars))


def meter(share: float, label: str) -> str:
    """Return a horizontal bar that is full to `share`, from 0 to 1."""
    width = 100 * min(max(share, 0.0), 1.0)
    return (
        f'<svg class="meter" role="img" aria-label="{escape(label)}"><title>{escape(label)}</title>'
        f'<rect class="track" width="100%" height="100%" rx="3"/>'
        f'<rect class="ok fill" width="{width:.1f}%" height="100%" rx="3"/></svg>'
    )


def _chart(
    label: str, axis: TimeAxis, series: Sequence[Series], top: float, show: Callable[[float], str], plot: str
) -> str:
    marks = (top, top / 2, 0.0)
    numbers = "".join(
        f'<text x="{_GUTTER - 8}" y="{_y(mark, top) + 4}">{escape(show(mark)) if mark else 0}</text>'
        for mark in marks
    )
    lines = "".join(f'<line x1="0" x2="100%" y1="{_y(mark, top)}" y2="{_y(mark, top)}"/>' for mark in marks)
    return (
        f'<div class="chart" role="img" aria-label="{escape(label)}">'
        f'<svg class="ticks" width="{_GUTTER}" height="{_HEIGHT}">{numbers}</svg>'
        f'<svg class="plot" height="{_HEIGHT}">{lines}{_nothing(series)}'
        f'<svg y="{_TOP}" width="100%" height="{_BOTTOM - _TOP}" viewBox="0 0 {axis.slots} 100" '
        f'preserveAspectRatio="none">{plot}</svg>{_times(axis)}{_tooltips(axis, series, show)}</svg></div>'
    )


def _nothing(series: Sequence[Series]) -> str:
    """Say that there is nothing to draw, if that is so."""
    if any(_known(one) for one in series):
        return ""
    return f'<text class="none" x="50%" y="{(_TOP + _BOTTOM) // 2 - 8}">no job ran in this time</text>'


def _y(value: float, top: float) -> int:
    return round(_BOTTOM - (_BOTTOM - _TOP) * value / top)


def _times(axis: TimeAxis) -> str:
    """Label round times, in UTC."""
    span = axis.step * axis.slots
    every = next((one for one in _TICK_SECONDS if span / one <= _MAX_TICKS), _TICK_SECONDS[-1])
    shape = "%-d %b" if every >= _DAY else "%H:%M"
    labels = []
    for time in range(axis.start + -axis.start % every, axis.start + span, every):
        share = (time - axis.start) / span
        # Labels at the edge would be truncated.
        if 0.03 < share < 0.97:
            text = datetime.fromtimestamp(time, UTC).strftime(shape)
            labels.append(f'<text x="{100 * share:.2f}%" y="{_HEIGHT - 8}">{text}</text>')
    return "".join(labels)


def _tooltips(axis: TimeAxis, series: Sequence[Series], show: Callable[[float], str]) -> str:
    width = 100 / axis.slots
    shape = "%-d %b %H:%M" if axis.step * axis.slots > _DAY else "%H:%M"
    tips = []
    for slot in range(axis.slots):
        known = [(one.name, value) for one in series if (value := one.values[slot]) is not None]
        if known:
            time = datetime.fromtimestamp(axis.start + slot * axis.step, UTC).strftime(shape)
            text = ", ".join(f"{show(value)} {name}" for name, value in known)
            tips.append(
                f'<rect class="slot" x="{slot * width:.2f}%" width="{width:.2f}%" y="{_TOP}" '
                f'height="{_BOTTOM - _TOP}"><title>{time} UTC: {escape(text)}</title></rect>'
            )
    return "".join(tips)


def _nice_top(value: float) -> float:
    """Return the round number at the top of an axis that reaches `value`; its half is round too."""
    unit = 1.0
    while unit * 10 < value:
        unit *= 10
    return next((nice * unit for nice in _NICE if nice * unit >= value and nice * unit >= 2), 10 * unit)


def _known(series: Series) -> list[float]:
    return [value for value in series.values if value is not None]


def _runs(values: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """Return the points (middle of the slot, value) in runs without a gap."""
    runs: list[list[tuple[float, float]]] = []
    run: list[tuple[float, float]] = []
    for slot, value in enumerate(values):
        if value is None:
            run = []
            continue
        if not run:
            runs.append(run)
        run.append((slot + 0.5, value))
    return [run if len(run) > 1 else _as_wide_as_its_slot(*run[0]) for run in runs]


def _as_wide_as_its_slot(x: float, y: float) -> list[tuple[float, float]]:
    return [(x - 0.5, y), (x + 0.5, y)]


def _line(run: Sequence[tuple[float, float]], top: float) -> str:
    return "M" + " ".join(f"{x:g},{100 - 100 * y / top:.2f}" for x, y in run)


def _closed(run: Sequence[tuple[float, float]], top: float) -> str:
    return f"{_line(run, top)} {run[-1][0]:g},100 {run[0][0]:g},100Z"
