"""Log lines can be parsed, and an outage is not logged at every failure."""

from __future__ import annotations

import json
import logging
import re
import sys

import pytest

from core.logs import REPEAT_SECONDS, FieldFormatter, OutageLog

FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')


def line(message: str, *arguments: object) -> str:
    record = logging.LogRecord("jobs.brew", logging.WARNING, "file", 1, message, arguments, None)
    record.created, record.msecs = 0.0, 7.0
    return FieldFormatter().format(record)


def test_a_line_has_its_time_in_utc_level_name_and_message() -> None:
    assert line("layer brewed size=%d", 7) == "1970-01-01T00:00:00.007Z WARNING jobs.brew layer brewed size=7"


@pytest.mark.parametrize(
    "value", ["plain", "two words", 'a "quote"', "a=b", "", "back\\slash", "two\nlines", "é"]
)
def test_every_value_can_be_read_from_its_line(value: str) -> None:
    written = line("layer failed digest=%s reason=%s then=%s", "sha256:0", value, "set aside")

    assert "\n" not in written
    found = {
        name: json.loads(text) if text.startswith('"') else text for name, text in FIELD.findall(written)
    }
    assert found == {"digest": "sha256:0", "reason": value, "then": "set aside"}


def test_what_is_no_field_is_left_alone() -> None:
    assert line("serving at %s, %d %% done, rate=%.1f", "a b", 5, 2.25).endswith("at a b, 5 % done, rate=2.2")
    assert line("100% %s").endswith("100% %s")


def test_a_call_with_the_wrong_arguments_is_an_error_as_without_this_formatter() -> None:
    with pytest.raises(TypeError):
        line("size=%d", "text")
    with pytest.raises(TypeError):
        line("size=%d again=%d", 1)


def test_a_traceback_follows_its_line() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "file", 1, "failed of=%s", ("a b",), sys.exc_info())
    first, *_, last = FieldFormatter().format(record).splitlines()
    assert first.endswith('failed of="a b"')
    assert last == "ValueError: why"


def test_an_outage_is_logged_once_then_once_a_minute_and_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    outage = OutageLog(logging.getLogger("outage"), "database", clock=lambda: now[0])

    outage.succeeded()
    for _ in range(10):
        outage.failed("connection refused")
    assert outage.out
    now[0] += REPEAT_SECONDS
    outage.failed("connection refused")
    outage.failed("connection refused")
    now[0] += 5
    outage.succeeded()
    outage.succeeded()
    outage.failed("disk full")

    assert [record.getMessage() for record in caplog.records] == [
        "database failed reason=connection refused",
        "database still fails seconds=60 failures=11 reason=connection refused",
        "database works again seconds=65 failures=12",
        "database failed reason=disk full",
    ]
