"""The history: the last run of each job, and samples summed over several brewers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from sql.history import (
    KEPT_SECONDS,
    Brews,
    JobRun,
    Sample,
    last_job_runs,
    measure_queue,
    record_job_runs,
    record_sample,
    samples,
)
from sql.transaction import reading, transaction
from tests.integration.sql.database import NOW, Database, digest_of

MINUTE = NOW - NOW % 60


def recorded(database: Database, brews: Brews, now: int) -> None:
    with reading(database.engine) as connection:
        queue = measure_queue(connection, database.tables, now=now)
    with transaction(database.engine) as connection:
        record_sample(connection, database.tables, brews, queue, now=now)


def found(database: Database, since: int = 0) -> list[Sample]:
    with reading(database.engine) as connection:
        return samples(connection, database.tables, since=since)


def test_each_jobs_last_run_is_kept(database: Database) -> None:
    first = JobRun("brew", NOW, 1.5, "done", "brewed 2")
    prune = JobRun("prune", NOW + 1, 0.25, "running")
    second = JobRun("brew", NOW + 10, 0.5, "failed", "the registry is down")
    with transaction(database.engine) as connection:
        record_job_runs(connection, database.tables, [first, prune])
        assert last_job_runs(connection, database.tables) == [first, prune]
        record_job_runs(connection, database.tables, [second])
        assert last_job_runs(connection, database.tables) == [second, prune]


def test_a_reason_from_outside_is_stored_as_one_line(database: Database) -> None:
    with transaction(database.engine) as connection:
        record_job_runs(connection, database.tables, [JobRun("brew", NOW, 1.0, "failed", "a\0b\n\udc80")])
        [run] = last_job_runs(connection, database.tables)
    assert run.reason == "a b ?"


def test_a_sample_holds_the_queue_and_the_sum_of_all_brewers(database: Database) -> None:
    database.enqueue(*(digest_of(number) for number in range(6)))
    locked, failed, _ = database.claim(3)
    database.set_aside(failed)
    database.complete(locked)
    start = threading.Barrier(4)

    def brewer(number: int) -> None:
        start.wait(timeout=60)
        recorded(database, Brews(brewed=number, bytes=100 * number, failed=1), MINUTE + 10 * number)

    with ThreadPoolExecutor(4) as brewers:
        list(brewers.map(brewer, range(4)))
    recorded(database, Brews(), MINUTE + 60)

    queue = {"waiting": 3, "locked": 1, "set_aside": 1}
    assert found(database) == [
        Sample(MINUTE, **queue, brewed=6, bytes=600, failed=4),
        Sample(MINUTE + 60, **queue, brewed=0, bytes=0, failed=0),
    ]
    assert [sample.minute for sample in found(database, since=MINUTE + 1)] == [MINUTE + 60]


def test_old_samples_are_deleted(database: Database) -> None:
    for now in (MINUTE, MINUTE + 60, MINUTE + 120):
        recorded(database, Brews(brewed=1), now)
    recorded(database, Brews(), MINUTE + KEPT_SECONDS + 60)
    assert [sample.minute for sample in found(database)] == [
        MINUTE + 60,
        MINUTE + 120,
        MINUTE + 60 + KEPT_SECONDS,
    ]
