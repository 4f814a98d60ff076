"""One-off jobs report their progress: as a bar on a terminal, otherwise as log lines."""

from __future__ import annotations

import logging
import os
import re
import termios
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO

import pytest

from jobs.progress import EVERY, Progress
from tests.clock import Clock

_MARK = b"\x1e"


class Terminal:
    """A terminal of 100 columns, to stand in for standard error."""

    def __init__(self) -> None:
        self._ours, theirs = os.openpty()
        termios.tcsetwinsize(theirs, (24, 100))
        self.stream = os.fdopen(theirs, "w")
        self._written = b""

    def line(self) -> str:
        """Return the current line of the screen."""
        # The kernel may delay it: everything written before this mark has arrived with it.
        self.stream.write(_MARK.decode())
        self.stream.flush()
        while not self._written.endswith(_MARK):
            self._written += os.read(self._ours, 65536)
        self._written = self._written.removesuffix(_MARK)
        return re.split(r"[\r\n]+", self._written.decode().rstrip())[-1].rstrip()

    def close(self) -> None:
        self.stream.close()
        os.close(self._ours)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(1000.0)
    # tqdm has no parameter for its clock.
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Standard error is a terminal."""
    terminal = Terminal()
    with redirect_stderr(terminal.stream):
        yield terminal
    terminal.close()


@contextmanager
def no_terminal(caplog: pytest.LogCaptureFixture) -> Iterator[StringIO]:
    """Standard error is not a terminal."""
    caplog.set_level(logging.INFO, logger="jobs.progress")
    with redirect_stderr(StringIO()) as written:
        yield written


def test_a_terminal_gets_a_bar_with_the_remaining_time(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with terminal() as screen, Progress("backfill", "layers", total=40, clock=clock) as progress:
        clock.now += 60
        progress.step(10, note="3 new")
        assert re.match(r"backfill:  25%\|.+\| 10/40 \[01:00<03:00, .*layers.*, 3 new\]$", screen.line())

        clock.now += 180
        progress.step(30)
        assert re.match(r"backfill: 100%\|.+\| 40/40 \[04:00<00:00, ", screen.line())

    assert caplog.messages == []


def test_the_bar_grows_with_the_total(clock: Clock) -> None:
    with terminal() as screen, Progress("backfill", "tags", clock=clock) as progress:
        progress.expect(10)
        clock.now += 10
        progress.step(10)
        assert "10/10 [00:10<00:00" in screen.line()

        progress.expect(20)
        assert "10/30 [00:10<00:20" in screen.line()

        clock.now += 10
        progress.estimate(50)
        progress.step(10)
        assert "20/50 [00:20<00:30" in screen.line()


def test_without_a_terminal_lines_at_intervals_name_the_remaining_time(
    clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        no_terminal(caplog) as written,
        Progress("backfill", "layers", total=600, clock=clock) as progress,
    ):
        for _ in range(int(2 * EVERY)):
            clock.now += 1
            progress.step(note="3 new")

    assert caplog.messages == [
        "progress name=backfill done=30 total=600 unit=layers eta=09:30 note=3 new",
        "progress name=backfill done=60 total=600 unit=layers eta=09:00 note=3 new",
    ]
    assert written.getvalue() == ""


def test_a_short_job_logs_nothing(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with no_terminal(caplog), Progress("verify", "layers", total=2, clock=clock) as progress:
        progress.step()
        clock.now += EVERY - 1
        progress.step()

    assert caplog.messages == []


def test_an_unknown_total_is_reported_as_unknown(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    with no_terminal(caplog), Progress("backfill", "tags", clock=clock) as progress:
        clock.now += EVERY
        progress.step(0)
        clock.now += EVERY
        progress.step(20)
        progress.expect(5)
        clock.now += EVERY
        progress.step(5)

    assert caplog.messages == [
        "progress name=backfill done=0 total=? unit=tags eta=? note=-",
        "progress name=backfill done=20 total=? unit=tags eta=? note=-",
        # More was done than expected: nothing is known to remain.
        "progress name=backfill done=25 total=5 unit=tags eta=00:00 note=-",
    ]
