"""Log lines can be parsed, and an outage is not logged on every failure."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading

import pytest

from core.logs import (
    REPEAT_SECONDS,
    FieldFormatter,
    JsonFormatter,
    OutageLog,
    choose_request_id,
    install_hooks,
    request_id,
)

FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)')


def line(message: str, *arguments: object) -> str:
    record = logging.LogRecord("jobs.brew", logging.WARNING, "file", 1, message, arguments, None)
    record.created, record.msecs = 0.0, 7.0
    return FieldFormatter().format(record)


def test_a_line_has_its_time_in_utc_level_name_and_message() -> None:
    assert line("layer brewed size=%d", 7) == "1970-01-01T00:00:00.007Z WARNING jobs.brew layer brewed size=7"


@pytest.mark.parametrize(
    "value", ["plain", "two words", 'a "quote"', "a=b", "", "back\\slash", "two\nlines", "\x1b[31mred", "é"]
)
def test_every_value_can_be_read_from_its_line(value: str) -> None:
    written = line("layer failed digest=%s reason=%s next=%s", "sha256:0", value, "set aside")

    assert "\n" not in written
    found = {
        name: json.loads(text) if text.startswith('"') else text for name, text in FIELD.findall(written)
    }
    assert found == {"digest": "sha256:0", "reason": value, "next": "set aside"}


def test_other_text_is_not_a_field() -> None:
    assert line("serving at %s, %d %% done, rate=%.1f", "a b", 5, 2.25).endswith("at a b, 5 % done, rate=2.2")
    assert line("100% %s").endswith("100% %s")


def test_wrong_arguments_are_an_error_as_with_the_standard_formatter() -> None:
    with pytest.raises(TypeError):
        line("size=%d", "text")
    with pytest.raises(TypeError):
        line("size=%d again=%d", 1)


def test_an_event_is_one_line_whatever_is_in_it() -> None:
    try:
        raise ValueError("why\nBearer eyJhbGciOiJ9.c2Vj")
    except ValueError:
        record = logging.LogRecord(
            "a", logging.ERROR, "file", 1, "two\nlines of=%s", ("a b",), sys.exc_info()
        )
    with request_id("abc-1"):
        written = FieldFormatter().format(record)

    assert written.splitlines() == [written]
    fields = dict(FIELD.findall(written))
    assert (fields["of"], fields["request_id"]) == ('"a b"', "abc-1")
    traceback = json.loads(fields["traceback"]).splitlines()
    assert (traceback[0], traceback[-1]) == ("Traceback (most recent call last):", "Bearer [removed]")


def test_what_ends_a_thread_or_the_program_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    install_hooks()
    thread = threading.Thread(target=lambda: 1 / 0, name="worker")
    thread.start()
    thread.join()
    sys.excepthook(ValueError, ValueError("why"), None)

    assert caplog.messages == ["thread ended by an internal error name=worker", "ended by an internal error"]
    assert [type(record.exc_info[1]) for record in caplog.records if record.exc_info] == [
        ZeroDivisionError,
        ValueError,
    ]


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


def json_line(message: str, *arguments: object) -> dict[str, object]:
    record = logging.LogRecord("jobs.brew", logging.WARNING, "file", 1, message, arguments, None)
    record.created, record.msecs = 0.0, 7.0
    written = JsonFormatter().format(record)
    assert "\n" not in written
    found: dict[str, object] = json.loads(written)
    return found


def test_a_json_line_has_the_event_and_its_fields() -> None:
    assert json_line("layer failed digest=%s reason=%s attempt=%d", "sha256:0", 'two\n"lines"', 3) == {
        "time": "1970-01-01T00:00:00.007Z",
        "level": "WARNING",
        "logger": "jobs.brew",
        "event": "layer failed",
        "fields": {"digest": "sha256:0", "reason": 'two\n"lines"', "attempt": "3"},
    }


def test_lines_within_a_request_have_its_id_and_others_have_none() -> None:
    with request_id("abc-1"):
        assert line("layer brewed size=%d", 7).endswith("layer brewed size=7 request_id=abc-1")
        assert json_line("layer brewed size=%d", 7)["request_id"] == "abc-1"

    assert "request_id" not in line("layer brewed size=%d", 7)
    assert "request_id" not in json_line("layer brewed size=%d", 7)


@pytest.mark.parametrize("proposed", ["a", "0af7651916cd43dd8448eb211c80319c", "req_1.2:3-4", "x" * 64])
def test_a_short_plain_request_id_is_kept(proposed: str) -> None:
    assert choose_request_id(proposed) == proposed


@pytest.mark.parametrize(
    "proposed", [None, "", "two words", "line\nbreak", "a=b", 'a"b', "x" * 65, "é", "a\n"]
)
def test_any_other_request_id_is_replaced(proposed: str | None) -> None:
    chosen = choose_request_id(proposed)

    assert re.fullmatch("[0-9a-f]{16}", chosen)
    assert chosen != choose_request_id(proposed)


@pytest.mark.parametrize("scheme", ["Bearer", "Basic", "OAuth", "bearer"])
def test_credentials_are_removed_from_every_line(scheme: str) -> None:
    token = "eyJhbGciOiJ9.c2VjcmV0MTIz"
    for written in (
        line("refused header=%s", f"{scheme} {token}"),
        line(f"refused {scheme} {token}"),
        json.dumps(json_line("refused header=%s", f"{scheme} {token}")),
        json.dumps(json_line(f"refused {scheme} {token}")),
    ):
        assert token not in written
        assert scheme in written


def test_a_challenge_is_not_a_credential() -> None:
    assert "Basic realm=" in line("refused challenge=%s", 'Basic realm="registry"')
