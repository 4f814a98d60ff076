"""Record the last run of each job, and once a minute a sample of the queue, for operators."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from core.errors import DatabaseError
from core.logs import OutageLog
from jobs.service import Service
from jobs.summary import Summary, was_paused
from sql.history import MINUTE, JobRun, RunOutcome, measure_queue, record_job_runs, record_sample
from sql.postgresql import query_timeout
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

_MAX_SECONDS = 60.0
"""How long PostgreSQL may take to count, or to write."""

_CLOSE_SECONDS = 5.0
"""How long the end of the process waits for the last records."""


@dataclass(frozen=True)
class _Run:
    """A run from `began` to `ended` (None: still running), in seconds; `idle` if it found nothing to do."""

    began: float
    ended: float | None = None
    outcome: RunOutcome = "running"
    reason: str | None = None
    idle: bool = False


class RunRecorder:
    """Records runs in a separate thread, so that no job waits for it or fails with it.

    A run that did something, or whose result differs from the previous one, is recorded at once; idle runs
    and the duration of current runs once a minute, with the sample. Failed writes are kept and retried.
    `timer` returns seconds; records are in the database's time.
    """

    def __init__(self, service: Service, timer: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._timer = timer
        self._outage = OutageLog(log, "history")
        self._lock = threading.Lock()
        self._running: dict[str, _Run] = {}
        self._unwritten: dict[str, _Run] = {}
        self._outcomes: dict[str, RunOutcome] = {}
        self._wake = threading.Event()
        self._closing = False
        # Not all processes at the same second of the minute.
        self._second = random.uniform(0, MINUTE)  # noqa: S311 - no secret
        self._thread = threading.Thread(target=self._write_until_closed, name="history", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Write pending records, and end the thread. A hung database does not delay this for long."""
        self._closing = True
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)

    def run(self, job: str, run: Callable[[], Summary]) -> Summary:
        """Do one run of `job` and record it. Raises its errors."""
        began = self._timer()
        with self._lock:
            self._running[job] = _Run(began)
        outcome: RunOutcome = "failed"
        reason, idle = "internal error", False
        try:
            summary = run()
            outcome = "failed" if was_paused(summary) else "done"
            reason, idle = str(summary), summary.idle
        except Exception as error:
            reason = str(error) or type(error).__name__
            raise
        else:
            return summary
        finally:
            self._record(job, _Run(began, self._timer(), outcome, reason, idle))

    def _record(self, job: str, run: _Run) -> None:
        with self._lock:
            del self._running[job]
            self._unwritten[job] = run
            changed = self._outcomes.get(job) != run.outcome
            self._outcomes[job] = run.outcome
        if changed or not run.idle:
            self._wake.set()

    def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            self._wake.wait((self._second - self._timer()) % MINUTE)
            self._wake.clear()
            # Read before writing: after the last run has ended, it writes once more.
            closing = self._closing
            self._write()

    def _write(self) -> None:
        service = self._service
        with self._lock:
            ended, self._unwritten = self._unwritten, {}
            runs = [*ended.items(), *self._running.items()]
        brews = service.brew_counter.take()
        try:
            with reading(service.database) as connection, query_timeout(_MAX_SECONDS):
                now = service.now(connection)
                queue = measure_queue(connection, service.tables, now=now)
            records = [_in_time_of_database(job, run, self._timer(), now) for job, run in runs]
            with transaction(service.database) as connection, query_timeout(_MAX_SECONDS):
                record_job_runs(connection, service.tables, records)
                record_sample(connection, service.tables, brews, queue, now=now)
        except Exception as error:
            if isinstance(error, DatabaseError):
                self._outage.failed(error)
            else:
                log.exception("history failed with an internal error")
            service.brew_counter.add(brews)
            with self._lock:
                self._unwritten = {**ended, **self._unwritten}
        else:
            self._outage.succeeded()


def _in_time_of_database(job: str, run: _Run, timer: float, now: int) -> JobRun:
    """Return the record of a run, given that it is `now` for the database and `timer` for this process."""
    seconds = (timer if run.ended is None else run.ended) - run.began
    return JobRun(job, int(now - (timer - run.began)), seconds, run.outcome, run.reason)


@contextmanager
def recording(service: Service) -> Iterator[RunRecorder]:
    """Yield a recorder of runs, which writes pending records at the end of the block."""
    recorder = RunRecorder(service)
    recorder.start()
    try:
        yield recorder
    finally:
        recorder.close()
