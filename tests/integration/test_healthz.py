"""`GET /healthz` with real dependencies that fail and recover."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import core.trackers
import web.app
import web.health
from core.health import HealthCheck
from sql.history import JobRun, record_job_runs
from sql.transaction import transaction
from tests.clock import Clock
from tests.servers.opentracker import start_opentracker
from tests.servers.process import free_port
from tests.servers.registry import start_registry
from tests.web_parts import NOON, app_of, web_parts
from tests.web_server import Front, front_of
from web.health import Dependencies


@pytest.fixture
def clock() -> Clock:
    return Clock(NOON)


@pytest.fixture(autouse=True)
def ample_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that work may answer late on a busy machine."""
    monkeypatch.setattr(web.app, "HealthCheck", partial(HealthCheck, limit=60.0))
    monkeypatch.setattr(web.health, "LIMIT_SECONDS", 60.0)
    monkeypatch.setattr(web.health, "TRACKER_SECONDS", 60.0)
    monkeypatch.setattr(core.trackers, "SECONDS", 60.0)


def asked(front: Front, clock: Clock) -> tuple[int, dict[str, Any]]:
    """Return the result of a new probe."""
    clock.now += 60
    answer = front.get("/healthz")
    return answer.status, json.loads(answer.body)


def test_only_required_parts_lead_to_503_and_all_are_reported(
    tmp_path: Path, clock: Clock, postgres_url: str
) -> None:
    with (
        start_registry(tmp_path / "registry") as registry,
        start_opentracker(tmp_path / "tracker") as tracker,
        front_of(
            registry.netloc,
            tmp_path / "front",
            settings={
                "torrents": {"trackers": [tracker.announce_url, f"udp://127.0.0.1:{tracker.port}/k3y"]}
            },
            database_url=postgres_url,
            clock=clock,
        ) as front,
    ):
        status, found = asked(front, clock)
        assert (status, found["status"]) == (200, "ok")
        trackers = [f"tracker {scheme}://127.0.0.1:{tracker.port}" for scheme in ("http", "udp")]
        assert list(found["parts"]) == ["database", "registry", "store", *trackers]
        assert found["parts"]["registry"]["reason"] == f"{registry.url}/v2/ answers 200"

        tracker.process.stop()
        status, found = asked(front, clock)
        assert (status, found["status"]) == (200, "degraded")
        assert found["parts"][trackers[0]]["status"] == "failed"
        assert "k3y" not in json.dumps(found)

        registry.stop()
        status, found = asked(front, clock)
        assert (status, found["status"]) == (503, "down")
        assert registry.netloc in found["parts"]["registry"]["reason"]
        registry.start()
        assert asked(front, clock)[0] == 200

        (tmp_path / "front" / "metainfo").write_text("not a directory")
        status, found = asked(front, clock)
        assert (status, found["parts"]["store"]["status"]) == (503, "failed")


def test_a_dead_database_is_a_503_and_jobs_are_unknown(tmp_path: Path, clock: Clock) -> None:
    parts = web_parts(tmp_path, clock=clock, database_url=f"sqlite:///{tmp_path / 'folder' / 'file'}")
    front = Front(app_of(parts), parts, tmp_path)
    parts.engine.dispose()
    (tmp_path / "folder" / "file").unlink()
    (tmp_path / "folder" / "file").mkdir()

    status, found = asked(front, clock)

    assert (status, found["parts"]["database"]["status"]) == (503, "failed")
    assert found["parts"]["jobs"]["status"] == "failed"
    front.app.close()


def test_other_callers_get_only_the_status(tmp_path: Path) -> None:
    with front_of(f"127.0.0.1:{free_port()}", tmp_path) as front:
        here, there = front.get("/healthz"), front.get("/healthz", X_Real_IP="198.51.100.7")
    assert (here.status, there.status) == (503, 503)
    assert json.loads(there.body) == {"status": "down"}
    assert "parts" in json.loads(here.body)


def test_failed_and_late_jobs_are_reported(tmp_path: Path, clock: Clock) -> None:
    parts = web_parts(tmp_path, clock=clock)
    pauses = {"brew": 10.0, "prune": 3600.0, "scan-tags": 3600.0}
    found = Dependencies(
        parts.config,
        parts.engine,
        parts.tables,
        parts.registry,
        parts.store,
        pauses,
        clock=lambda _: int(clock.now),
        timer=clock,
    )
    jobs: Callable[[], Any] = next(probe for probe in found.probes() if probe.name == "jobs").run
    assert [part.ok for part in jobs().values()] == [True, True, True]

    clock.now += 1000
    runs = [
        JobRun("brew", int(clock.now) - 900, 880.0, "running"),
        JobRun("prune", int(clock.now) - 10, 0.5, "failed", "the registry is down"),
        JobRun("publish-whitelist", 5, 0.5, "done", "published 0"),
    ]
    with transaction(parts.engine) as connection:
        record_job_runs(connection, parts.tables, runs)
    at_first = jobs()
    assert {name: part.ok for name, part in at_first.items()} == {
        "job brew": True,
        "job prune": False,
        "job publish-whitelist": True,
        "job scan-tags": True,
    }
    assert at_first["job prune"].reason == "failed: the registry is down"
    assert (at_first["job brew"].time, at_first["job brew"].seconds) == (clock.now - 900, 880.0)

    clock.now += 7 * 3600
    later = jobs()
    assert [name for name, part in later.items() if not part.ok] == ["job brew", "job prune", "job scan-tags"]
    assert later["job brew"].reason.startswith("late, last seen 7 h 0 min ago")
    assert later["job scan-tags"].reason == "no run is recorded: start the scheduler, or cron"
    parts.engine.dispose()
