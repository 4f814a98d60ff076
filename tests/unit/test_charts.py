"""Charts: values are drawn at their times and escaped."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from web.charts import Series, TimeAxis, area_chart, bar_chart, meter

# 08:00 UTC on 1 December 2026.
AXIS = TimeAxis(start=1_796_112_000, step=60, slots=5)


def drawn(chart: str) -> ElementTree.Element:
    """Parse the chart as XML: unclosed elements and unescaped text fail."""
    return ElementTree.fromstring(chart)


def tooltips(chart: str) -> list[str]:
    return [title.text or "" for title in drawn(chart).iter("title")]


def numbers(chart: ElementTree.Element) -> list[str | None]:
    """Return the numbers at the axis, from the top down."""
    return [text.text for text in chart.findall("svg[@class='ticks']/text")]


def test_each_slot_with_values_has_a_tooltip_with_its_time() -> None:
    waiting = Series("waiting", "accent", [1200, None, 7, 0, None])
    failed = Series("set aside", "bad", [1, None, None, 0, None])

    assert tooltips(area_chart("the queue", AXIS, [waiting, failed])) == [
        "08:00 UTC: 1,200 waiting, 1 set aside",
        "08:02 UTC: 7 waiting",
        "08:03 UTC: 0 waiting, 0 set aside",
    ]


def test_bars_are_as_high_as_their_share_of_the_axis_and_stacked() -> None:
    brewed = Series("brewed", "accent", [40, 20, None, 0, 100])
    failed = Series("failed", "bad", [10, None, None, 0, 0])

    chart = drawn(bar_chart("brews", AXIS, [brewed, failed]))

    bars = [(float(bar.get("y", "")), float(bar.get("height", ""))) for bar in chart.findall("svg/svg/rect")]
    assert bars == [(60.0, 40.0), (50.0, 10.0), (80.0, 20.0), (0.0, 100.0)]
    assert numbers(chart) == ["100", "50", "0"]


def test_a_line_has_gaps_where_values_are_missing() -> None:
    chart = drawn(area_chart("the queue", AXIS, [Series("waiting", "accent", [2, 2, None, 1, None])]))

    lines = [path.get("d") for path in chart.findall("svg/svg/path") if path.get("class") == "accent line"]
    assert lines == ["M0.5,0.00 1.5,0.00", "M3,50.00 4,50.00"]


@pytest.mark.parametrize(
    ("largest", "top"),
    [(0, "2"), (1, "2"), (3, "4"), (11, "20"), (20, "20"), (61, "80"), (1001, "2,000"), (9_999, "10,000")],
)
def test_the_axis_ends_at_a_round_number(largest: int, top: str) -> None:
    chart = drawn(area_chart("x", AXIS, [Series("x", "accent", [largest, None, None, None, None])]))

    assert numbers(chart)[0] == top


def test_round_times_are_labelled() -> None:
    day = TimeAxis(start=1_796_112_000, step=900, slots=96)
    week = TimeAxis(start=1_796_112_000, step=7200, slots=84)

    def labels(axis: TimeAxis) -> list[str | None]:
        chart = drawn(area_chart("x", axis, [Series("x", "accent", [None] * axis.slots)]))
        return [text.text for text in chart.findall("svg[@class='plot']/text")]

    # The first says that there is nothing else to see.
    assert labels(day) == ["no job ran in this time", "12:00", "16:00", "20:00", "00:00", "04:00"]
    assert labels(week)[1:] == ["2 Dec", "3 Dec", "4 Dec", "5 Dec", "6 Dec", "7 Dec", "8 Dec"]
    chart = area_chart("x", day, [Series("x", "accent", [0.0, *[None] * 95])])
    assert "no job ran" not in chart


def test_a_time_belongs_to_at_most_one_slot() -> None:
    assert [AXIS.slot(AXIS.start + seconds) for seconds in (-1, 0, 59, 60, 299, 300)] == [
        None, 0, 0, 1, 4, None,
    ]  # fmt: skip


def test_names_are_escaped() -> None:
    hostile = "<script>alert('x')</script>"
    series = [Series(hostile, "accent", [1, 1, 1, 1, 1])]

    for chart in (area_chart(hostile, AXIS, series), bar_chart(hostile, AXIS, series), meter(0.5, hostile)):
        assert "<script" not in chart
        assert any(hostile in title for title in tooltips(chart))


def test_a_meter_shows_its_share() -> None:
    widths = [drawn(meter(share, "x")).findall("rect")[1].get("width") for share in (-1, 0, 0.333, 1, 7)]

    assert widths == ["0.0%", "0.0%", "33.3%", "100.0%", "100.0%"]
