"""Jobs run at once when woken, one after the other, and log only what they did."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

import jobs.scheduler
from core.errors import DatabaseDown, DockerTorrentsError
from core.logs import OutageLog
from core.metrics import JOB_RUNS
from jobs.scheduler import EverySeconds, Schedule, Scheduler
from tests.servers.waiting import comes_true

NEVER = 100_000.0
"""Seconds: no test lasts until the next scheduled run."""


@dataclass
class Done:
    idle: bool = False

    def __str__(self) -> str:
        return "nothing" if self.idle else "a lot"


@dataclass
class Paused:
    paused: str
    idle: bool = False


@contextmanager
def running(*schedules: Schedule) -> Iterator[Scheduler]:
    scheduler = Scheduler(schedules, OutageLog(logging.getLogger("jobs"), "database"))
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.stop(threading.Event())


def counting(runs: queue.SimpleQueue[str], name: str, idle: bool = False) -> Callable[[], Done]:
    def run() -> Done:
        runs.put(name)
        return Done(idle)

    return run


def test_a_job_runs_at_the_start_and_when_it_is_woken() -> None:
    runs: queue.SimpleQueue[str] = queue.SimpleQueue()
    with running(Schedule("brew", counting(runs, "brew"), NEVER)) as scheduler:
        assert runs.get(timeout=60) == "brew"
        scheduler.run_now("brew", "not-scheduled")
        assert runs.get(timeout=60) == "brew"


def test_a_run_ended_by_an_outage_is_not_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: queue.SimpleQueue[tuple[str, ...]] = queue.SimpleQueue()

    def count(*labels: str, amount: float = 1) -> None:
        if amount:
            counted.put(labels)

    monkeypatch.setattr(JOB_RUNS, "count", count)
    with running(Schedule("brew", lambda: Paused("the registry is down"), NEVER)):
        assert counted.get(timeout=60) == ("brew", "failed")


def test_a_job_woken_while_it_runs_runs_again() -> None:
    started: queue.SimpleQueue[None] = queue.SimpleQueue()
    go_on = threading.Semaphore(0)

    def run() -> Done:
        started.put(None)
        assert go_on.acquire(timeout=60)
        return Done()

    with running(Schedule("brew", run, NEVER)) as scheduler:
        started.get(timeout=60)
        scheduler.run_now("brew")
        scheduler.run_now("brew")
        go_on.release(2)
        started.get(timeout=60)
    assert started.empty()


def test_a_job_that_does_not_end_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs.scheduler, "_GRACE", 0.1)
    started, go_on = threading.Event(), threading.Event()

    def run() -> Done:
        started.set()
        go_on.wait(60)
        return Done()

    try:
        with running(Schedule("brew", run, NEVER)):
            assert started.wait(60)
        assert "left unfinished name=brew" in caplog.text
        assert not go_on.is_set()
    finally:
        go_on.set()


def test_a_job_that_found_work_starts_the_next() -> None:
    runs: queue.SimpleQueue[str] = queue.SimpleQueue()
    found = [False, True]

    def resolve() -> Done:
        runs.put("resolve")
        return Done(idle=not found.pop(0))

    schedules = [
        Schedule("brew", counting(runs, "brew"), NEVER),
        Schedule("resolve", resolve, NEVER, then=("brew",)),
    ]
    with running(*schedules) as scheduler:
        assert {runs.get(timeout=60), runs.get(timeout=60)} == {"brew", "resolve"}
        scheduler.run_now("resolve")
        assert [runs.get(timeout=60), runs.get(timeout=60)] == ["resolve", "brew"]


def test_idle_runs_are_logged_at_debug_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "jobs.scheduler")
    schedules = [Schedule("idle", lambda: Done(True), NEVER), Schedule("busy", lambda: Done(), NEVER)]
    with running(*schedules):
        assert comes_true(lambda: caplog.text.count("job done") == 2)

    levels = {record.getMessage(): record.levelname for record in caplog.records}
    assert levels["job done name=idle result=nothing"] == "DEBUG"
    assert levels["job done name=busy result=a lot"] == "INFO"


def test_a_job_that_keeps_failing_is_logged_once_until_it_works(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jobs.scheduler")
    left = [1, 2, 3]

    def run() -> Done:
        if left:
            raise DockerTorrentsError(f"no registry, {left.pop()}")
        return Done()

    with running(Schedule("brew", run, 0.05)):
        assert comes_true(lambda: "works again" in caplog.text)
    assert caplog.text.count("job brew failed reason=no registry, 3") == 1
    assert "no registry, 2" not in caplog.text


def test_jobs_log_that_their_database_is_down_as_one_outage(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jobs")
    down = threading.Event()
    down.set()
    runs: queue.SimpleQueue[str] = queue.SimpleQueue()
    failed: set[str] = set()

    def run(name: str) -> Done:
        if down.is_set():
            failed.add(name)
            raise DatabaseDown("connection refused")
        return Done()

    reading = counting(runs, "resolve-manifests", idle=True)
    schedules = [Schedule(name, partial(run, name), 0.05) for name in ("brew", "prune")]
    with running(*schedules, Schedule("resolve-manifests", reading, 0.05)):
        assert comes_true(lambda: len(failed) == 2)
        runs.get(timeout=60)
        runs.get(timeout=60)
        assert "works again" not in caplog.text
        down.clear()
        assert comes_true(lambda: "database works again" in caplog.text)
    assert [line for line in caplog.messages if " failed " in line] == [
        "database failed reason=the database is down: connection refused"
    ]


def test_a_job_with_an_internal_error_runs_again(caplog: pytest.LogCaptureFixture) -> None:
    runs: queue.SimpleQueue[None] = queue.SimpleQueue()

    def run() -> Done:
        runs.put(None)
        raise ZeroDivisionError

    with running(Schedule("brew", run, 0.05)):
        runs.get(timeout=60)
        runs.get(timeout=60)
    assert "internal error" in caplog.text


def test_a_clock_that_steps_forward_by_years_makes_one_run_due() -> None:
    every = EverySeconds(2)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    later = start + timedelta(days=4000)

    assert every.get_next_fire_time(start, later) == later + timedelta(seconds=2)
