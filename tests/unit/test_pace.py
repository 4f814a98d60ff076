"""A pace limits the rate of steps."""

from __future__ import annotations

from core.pace import Pace


class Time:
    """A clock that advances only by sleep and by tests."""

    def __init__(self) -> None:
        self.now = 100.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_steps_do_not_exceed_the_rate() -> None:
    time = Time()
    pace = Pace(4, clock=lambda: time.now, sleep=time.sleep)

    for _ in range(9):
        pace.wait()

    assert time.now == 102.0


def test_slow_work_does_not_lead_to_a_burst() -> None:
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
