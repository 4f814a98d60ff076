"""The history of jobs and of the queue: cursors, last runs, and a sample for each minute."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

import sqlalchemy as sa

from sql.bulk_values import insert
from sql.failures import one_line
from sql.queue_counts import count_locked, count_set_aside, count_waiting
from sql.tables import Tables

MINUTE = 60
KEPT_SECONDS = 7 * 24 * 3600
"""How long samples are kept."""

RunOutcome = Literal["done", "failed", "running"]


@dataclass(frozen=True, slots=True)
class JobRun:
    """A run of a job: when it started (Unix time) and how long it took, or has been running so far.

    `reason` is its summary, or why it failed.
    """

    job: str
    started: int
    seconds: float
    outcome: RunOutcome
    reason: str | None = None

    @property
    def seen(self) -> float:
        """When it ended, or was last known to be running (Unix time)."""
        return self.started + self.seconds


@dataclass(frozen=True, slots=True)
class Brews:
    """The work of brewers: layers brewed, their bytes, and failed attempts."""

    brewed: int = 0
    bytes: int = 0
    failed: int = 0

    def __add__(self, other: Brews) -> Brews:
        return Brews(self.brewed + other.brewed, self.bytes + other.bytes, self.failed + other.failed)


@dataclass(frozen=True, slots=True)
class QueueSize:
    """How many layers wait, are locked, and are set aside."""

    waiting: int
    locked: int
    set_aside: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The queue in the minute that began at `minute` (Unix time), and the work of all brewers in it."""

    minute: int
    waiting: int
    locked: int
    set_aside: int
    brewed: int
    bytes: int
    failed: int


def find_cursor(connection: sa.Connection, tables: Tables, job: str) -> str:
    """Return where the last run of `job` ended; an empty string at the beginning of a round."""
    cursor = tables.cursor
    found = connection.scalars(sa.select(cursor.c.place).where(cursor.c.job == job)).one_or_none()
    return found or ""


def save_cursor(connection: sa.Connection, tables: Tables, job: str, place: str) -> None:
    """Save where this run of `job` ended."""
    keep = insert(connection, tables.cursor).values(job=job, place=place)
    connection.execute(
        keep.on_conflict_do_update(index_elements=["job"], set_={"place": keep.excluded.place})
    )


def record_job_runs(connection: sa.Connection, tables: Tables, runs: Iterable[JobRun]) -> None:
    """Record each run as the last one of its job."""
    for run in runs:
        reason = None if run.reason is None else one_line(connection, run.reason)
        values = {
            "started": run.started, "seconds": run.seconds, "outcome": run.outcome, "reason": reason
        }  # fmt: skip
        keep = insert(connection, tables.job_run).values(job=run.job, **values)
        connection.execute(keep.on_conflict_do_update(index_elements=["job"], set_=values))


def last_job_runs(connection: sa.Connection, tables: Tables) -> list[JobRun]:
    """Return the last run of each job that ever ran, by name."""
    run = tables.job_run
    return [JobRun(**row) for row in connection.execute(sa.select(run).order_by(run.c.job)).mappings()]


def measure_queue(connection: sa.Connection, tables: Tables, *, now: int) -> QueueSize | None:
    """Return the size of the queue for the sample of this minute, None if another process has recorded it.

    It counts row by row: in a transaction it would block all writers to SQLite.
    """
    history = tables.history
    recorded = sa.select(history.c.minute).where(history.c.minute == now - now % MINUTE)
    if connection.execute(recorded).first() is not None:
        return None
    return QueueSize(
        count_waiting(connection, tables),
        count_locked(connection, tables),
        count_set_aside(connection, tables),
    )


def record_sample(
    connection: sa.Connection, tables: Tables, brews: Brews, queue: QueueSize | None, *, now: int
) -> None:
    """Record the result of `measure_queue`, and add `brews` to the work of others in this minute.

    Samples older than KEPT_SECONDS are deleted.
    """
    history, size = tables.history, queue or QueueSize(0, 0, 0)
    add = insert(connection, history).values(minute=now - now % MINUTE, **asdict(size), **asdict(brews))
    counters = (history.c.brewed, history.c.bytes, history.c.failed)
    sums = {counter.name: counter + add.excluded[counter.name] for counter in counters}
    connection.execute(add.on_conflict_do_update(index_elements=["minute"], set_=sums))
    connection.execute(sa.delete(history).where(history.c.minute < now - KEPT_SECONDS))


def samples(connection: sa.Connection, tables: Tables, *, since: int) -> list[Sample]:
    """Return the samples of the minutes that began at `since` or later, the oldest first.

    A minute in which no scheduler or job ran has no sample.
    """
    history = tables.history
    rows = connection.execute(
        sa.select(history).where(history.c.minute >= since).order_by(history.c.minute)
    ).mappings()
    return [Sample(**row) for row in rows]
