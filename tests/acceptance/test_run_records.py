"""Job runs write a record and samples to the database, and work without these tables too."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import jobs.run_records
from core.config.file import load_config
from docker_torrents import CHECKS, web_app
from jobs.brew_state import BrewCounter
from jobs.run_records import RunRecorder
from jobs.service import Service
from sql.history import Brews, JobRun, Sample, last_job_runs, samples
from sql.tables import OPTIONAL, build_tables
from sql.transaction import reading, transaction
from tests.installation import Installation
from tests.integration.sql.database import digest_of
from tests.servers.layers import layer_bytes
from tests.servers.postgres import PostgresServer
from tests.servers.process import free_port
from tests.servers.push import push_image
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true, returns
from tests.wsgi import call


@pytest.fixture(autouse=True)
def ample_close_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last records are written even on a busy machine."""
    monkeypatch.setattr(jobs.run_records, "_CLOSE_SECONDS", 120.0)


class Busy:
    """The summary of a run that found something to do."""

    idle = False


def recorded(installation: Installation) -> tuple[dict[str, JobRun], list[Sample]]:
    """Return the last runs by job, and all samples."""
    service = Service(load_config(installation.config, checks=CHECKS))
    try:
        with reading(service.reader) as connection:
            runs = {run.job: run for run in last_job_runs(connection, service.tables)}
            return runs, samples(connection, service.tables, since=0)
    finally:
        service.close()


def test_runs_from_cron_leave_their_record_and_add_up(tmp_path: Path, registry: Registry, scope: str) -> None:
    installation = Installation(tmp_path, registry)
    for number, sizes in enumerate([(1_000, 2_000), (70_000,)]):
        push_image(registry, scope, f"v{number}", [layer_bytes(size, number * 10 + size) for size in sizes])
        installation.run("backfill", "repository", scope)
        installation.run("run", "brew")

    runs, history = recorded(installation)
    assert (runs["brew"].outcome, runs["brew"].reason) == ("done", "brewed 1, failed 0, waiting 0")
    assert sum(sample.brewed for sample in history) == 3
    assert sum(sample.bytes for sample in history) == 73_000
    assert {sample.waiting for sample in history} <= {0, 1, 2}

    installation.run("run", "prune", "--dry-run")
    assert "prune" not in recorded(installation)[0]


def test_a_disabled_job_leaves_no_failure(tmp_path: Path, registry: Registry) -> None:
    installation = Installation(tmp_path, registry)
    installation.run("run", "release-locks")

    ended = installation.run("run", "publish-whitelist", check=False)

    assert ended.returncode == 2
    assert "jobs.publish-whitelist: file is required" in ended.stderr
    assert list(recorded(installation)[0]) == ["release-locks"]


def test_the_scheduler_records_each_job_and_why_one_failed(
    tmp_path: Path, registry: Registry, scope: str
) -> None:
    installation = Installation(tmp_path, registry)
    push_image(registry, scope, "v1", [layer_bytes(1_000, 1)])
    installation.run("backfill", "repository", scope)
    nowhere = f"127.0.0.1:{free_port()}"
    down = Installation(tmp_path, nowhere)

    scheduler = down.process("scheduler")
    scheduler.start()
    try:
        assert comes_true(lambda: recorded(down)[0].keys() >= {"brew", "release-locks", "prune"})
        assert comes_true(lambda: recorded(down)[0]["brew"].outcome == "failed")
    finally:
        scheduler.stop()

    brew = recorded(down)[0]["brew"]
    assert brew.reason is not None
    assert nowhere in brew.reason


def test_a_run_in_progress_is_recorded_as_running(tmp_path: Path) -> None:
    installation = Installation(tmp_path, "127.0.0.1:1")
    now = 4_000_000_000.0
    service = Service(load_config(installation.config, checks=CHECKS), clock=lambda _: int(now))
    recorder = RunRecorder(service, timer=lambda: now)
    recorder.start()

    def run() -> Busy:
        nonlocal now
        now += 90
        recorder.run("brew", Busy)
        assert comes_true(lambda: recorded(installation)[0].get("prune"))
        running = recorded(installation)[0]["prune"]
        assert running == JobRun("prune", 4_000_000_000, 90.0, "running")
        assert running.seen == now
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        recorder.run("prune", run)
    recorder.close()
    service.close()
    assert recorded(installation)[0]["prune"] == JobRun(
        "prune", 4_000_000_000, 90.0, "failed", "ZeroDivisionError"
    )


def test_a_database_that_does_not_answer_does_not_delay_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.run_records, "_CLOSE_SECONDS", 0.1)
    service = Service(load_config(Installation(tmp_path, "127.0.0.1:1").config, checks=CHECKS))
    recorder = RunRecorder(service)
    writing, go_on = threading.Event(), threading.Event()

    class Counter(BrewCounter):
        def take(self) -> Brews:
            writing.set()
            go_on.wait(60)
            return super().take()

    service.brew_counter = Counter()
    recorder.start()
    recorder.run("prune", Busy)
    assert writing.wait(60)
    try:
        assert returns(recorder.close)
    finally:
        go_on.set()
        recorder._thread.join(60)


def test_a_run_that_ends_while_another_is_written_is_written_before_the_end(tmp_path: Path) -> None:
    installation = Installation(tmp_path, "127.0.0.1:1")
    service = Service(load_config(installation.config, checks=CHECKS))
    recorder = RunRecorder(service)
    writing, closing = threading.Event(), threading.Thread(target=recorder.close)

    class Counter(BrewCounter):
        def take(self) -> Brews:
            writing.set()
            return super().take()

    service.brew_counter = Counter()
    recorder.run("prune", Busy)
    with transaction(service.database):
        recorder.start()
        assert writing.wait(60)
        recorder.run("brew", Busy)
        closing.start()
        assert comes_true(lambda: recorder._closing)
    closing.join()
    service.close()
    assert recorded(installation)[0].keys() == {"prune", "brew"}


def test_jobs_run_in_a_database_of_an_older_version(
    tmp_path: Path, registry: Registry, scope: str, postgres: PostgresServer, postgres_url: str
) -> None:
    """Its user may not create tables, so the new ones stay missing until their owner creates them."""
    installation = Installation(tmp_path, registry, db={"url": postgres_url})
    installation.init_db()
    name = postgres_url.rpartition("/")[2].partition("?")[0]
    newer = [table.name for table in build_tables().metadata.sorted_tables if table.info == OPTIONAL]
    postgres.execute(f"DROP TABLE {', '.join(newer)}", name)
    postgres.execute(
        "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS "
        "$$BEGIN RAISE insufficient_privilege USING MESSAGE = 'permission denied'; END$$",
        name,
    )
    postgres.execute(
        "CREATE EVENT TRIGGER refuse ON ddl_command_start WHEN TAG IN ('CREATE TABLE') "
        "EXECUTE FUNCTION refuse()",
        name,
    )
    image = push_image(registry, scope, "v1", [layer_bytes(1_000, 1)])
    installation.run("backfill", "repository", scope)
    absent = digest_of("absent")
    postgres.execute(f"INSERT INTO rbtorrent_mapping (digest, added) VALUES ('{absent}', 1)", name)

    ended = installation.run("run", "brew", check=False)

    assert ended.stdout.splitlines()[-1] == "brewed 1, failed 1, waiting 1"
    assert "tables of this version are missing" in ended.stderr
    assert "init-db" in ended.stderr
    assert f"{absent} is delayed" in installation.run("show", str(absent)).stdout
    assert "brewed 1 of 1 layers" in installation.run("show", f"{scope}@{image.digest}").stdout
    assert installation.json("queue", "status")["delayed"] == 1
    service = Service(load_config(installation.config, checks=CHECKS))
    app = web_app(service)
    page = call(app, "GET", "/")
    assert (page.status, "not found" in page.body.decode()) == (200, True)
    app.close()
    service.close()
    postgres.execute("DROP EVENT TRIGGER refuse", name)
    installation.init_db()
    installation.run("run", "brew")
    assert recorded(installation)[0]["brew"].outcome == "done"
