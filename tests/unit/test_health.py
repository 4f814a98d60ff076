"""Health is probed once for all callers, and never blocks on a dependency that hangs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from core.errors import DatabaseDown
from core.health import KEEP_SECONDS, Health, HealthCheck, Part, Probe
from tests.servers.waiting import comes_true


class Timer:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def refused() -> str:
    raise DatabaseDown("db1:5432:\nConnection refused")


def broken() -> str:
    raise ZeroDivisionError("with a secret in it")


def test_only_a_required_part_leads_to_503() -> None:
    good, bad = Part(True, "", 0), Part(False, "", 0)
    required = Part(False, "", 0, required=True)

    assert (Health({"a": good}).status, Health({"a": good}).http_status) == ("ok", 200)
    assert (Health({"a": good, "b": bad}).status, Health({"b": bad}).http_status) == ("degraded", 200)
    assert (Health({"a": good, "b": required}).status, Health({"b": required}).http_status) == ("down", 503)


def test_each_part_comes_with_its_time_and_reason() -> None:
    check = HealthCheck(
        [
            Probe("database", refused, required=True),
            Probe("store", broken),
            Probe("tracker", lambda: "answers"),
            Probe("jobs", lambda: {"job brew": Part(True, "done", 5.0, 1.25)}),
        ],
        clock=lambda: 7.0,
    )

    details = check.health().details()

    assert details["status"] == "down"
    times = {"time": 7, "seconds": 0.0}
    assert details["parts"] == {
        "database": {
            "status": "failed",
            "required": True,
            **times,
            "reason": "the database is down: db1:5432: Connection refused",
        },
        "store": {
            "status": "failed",
            "required": False,
            **times,
            "reason": "internal error: see the log",
        },
        "tracker": {"status": "ok", "required": False, **times, "reason": "answers"},
        "job brew": {"status": "ok", "required": False, "time": 5, "seconds": 1.25, "reason": "done"},
    }
    assert check.health().summary() == {"status": "down"}


def test_callers_share_a_result_for_some_seconds() -> None:
    timer, runs, go_on = Timer(), [], threading.Event()

    def probe() -> str:
        runs.append(1)
        assert go_on.wait(timeout=60)
        return "answers"

    check = HealthCheck([Probe("registry", probe)], timer=timer, limit=30)
    with ThreadPoolExecutor(8) as callers:
        answers = [callers.submit(check.health) for _ in range(8)]
        assert comes_true(lambda: runs)
        go_on.set()
        assert {answer.result(timeout=60).status for answer in answers} == {"ok"}
    assert len(runs) == 1

    timer.now += KEEP_SECONDS - 1
    check.health()
    assert len(runs) == 1
    timer.now += 1
    check.health()
    assert len(runs) == 2


def test_a_probe_that_hangs_fails_alone_and_runs_once() -> None:
    timer, runs, hang = Timer(), [], threading.Event()

    def probe() -> str:
        runs.append(1)
        hang.wait(timeout=60)
        return "answers"

    probes = [Probe("store", probe, required=True), Probe("registry", lambda: "answers", required=True)]
    check = HealthCheck(probes, timer=timer, limit=0.2)
    for _ in range(3):
        found = check.health()
        assert found.status == "down"
        assert found.parts["store"].reason.startswith("no answer for")
        timer.now += KEEP_SECONDS
    assert len(runs) == 1

    hang.set()
    assert comes_true(lambda: _later(check, timer).parts["store"].ok)


def _later(check: HealthCheck, timer: Timer) -> Health:
    timer.now += KEEP_SECONDS
    return check.health()
