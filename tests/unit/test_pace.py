"""A pace keeps steps apart."""

from __future__ import annotations

from core.pace import Pace


class Time:
    """A clock that moves only when somebody sleeps or works."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_steps_come_no_faster_than_the_rate() -> None:
    time = Time()
    pace = Pace(4, clock=lambda: time.now, sleep=time.sleep)

    for _ in range(9):
        pace.wait()

    assert time.now == 102.0


def test_time_spent_working_earns_no_burst() -> None:
    time = Time()
    pace = Pace(2, clock=lambda: time.now, sleep=time.sleep)
    pace.wait()
    time.now += 60
    pace.wait()
    before = time.now
    pace.wait()

    assert time.now - before == 0.5


def test_without_a_rate_there_is_no_wait() -> None:
    time = Time()
    pace = Pace(None, clock=lambda: time.now, sleep=time.sleep)

    for _ in range(1000):
        pace.wait()

    assert time.now == 100.0
