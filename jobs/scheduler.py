"""Run the jobs at their times, with APScheduler: each job never runs twice at once."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from core.errors import DatabaseDown, DatabaseNotReady, DockerTorrentsError
from core.logs import OutageLog, choose_request_id, request_id
from core.metrics import JOB_LAST_SUCCESS, JOB_RUNS, JOB_SECONDS
from jobs.cron import cron_trigger
from jobs.summary import Summary, was_paused

log = logging.getLogger(__name__)

_CLOCK_CHECK_SECONDS = 1.0

_GRACE = 10.0
"""Seconds that the running jobs have to end when the scheduler stops."""

_TICK = 0.5


@dataclass(frozen=True)
class Schedule:
    """A job and when it runs: every `interval` seconds (0: never), or by `cron`.

    A run that was not idle starts the jobs named in `then` at once.
    """

    name: str
    run: Callable[[], Summary]
    interval: float = 0
    cron: str | None = None
    then: Collection[str] = ()


class EverySeconds(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """Fires `seconds` after each run. A clock that steps forward makes one run due, not many."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """See BaseTrigger."""
        return now + timedelta(seconds=self.seconds)

    def __str__(self) -> str:
        return f"every {self.seconds:g} s"


class Scheduler:
    """The scheduled jobs, in threads. A job that fails is logged and runs again at its next time.

    `database` logs that the database is down, once for all jobs. Jobs that write may end that outage too.
    """

    def __init__(self, schedules: Collection[Schedule], database: OutageLog) -> None:
        """Raises ValueError if a cron expression is invalid (see `cron_trigger`)."""
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            # A run that became due during the previous one is made up for once, however late.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        # It warns whenever a run outlasts its interval, which a long brew does by design.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        self._database = database
        self._outages = {schedule.name: OutageLog(log, f"job {schedule.name}") for schedule in schedules}
        self._lock = threading.Lock()
        self._running: set[str] = set()
        self._give_up = math.inf
        self._again: set[str] = set()
        self._requests: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._requests_thread = threading.Thread(target=self._serve_requests, name="requests", daemon=True)
        self._scheduler.add_listener(self._ended, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
        for schedule in schedules:
            if schedule.cron is None and not schedule.interval:
                continue
            first = {} if schedule.cron else {"next_run_time": datetime.now(UTC)}
            self._scheduler.add_job(self._run, trigger(schedule), args=[schedule], id=schedule.name, **first)

    def start(self) -> None:
        """Start the jobs that have an interval at once, the others at their time."""
        for job in self._scheduler.get_jobs():
            log.debug("job scheduled name=%s when=%s", job.id, job.trigger)
            for outcome in ("done", "failed", "internal_error"):
                # Prometheus sees no increase in a counter that begins with 1.
                JOB_RUNS.count(job.id, outcome, amount=0)
        log.info("scheduler started jobs=%d", len(self._scheduler.get_jobs()))
        self._scheduler.start()
        self._requests_thread.start()

    def stop(self, stop: threading.Event) -> None:
        """Set `stop`, which ends the running jobs, and wait for them, for up to ten seconds.

        A job may wait for a silent server until all its time-outs are over. It is left then, and ends with
        the process: the next run continues after any interruption.
        """
        stop.set()
        self._give_up = time.monotonic() + _GRACE
        self._requests.put(None)
        self._requests_thread.join()
        self._scheduler.shutdown(wait=True)

    def run_now(self, *names: str) -> None:
        """Run these jobs at once, or once more if they are running. Jobs that are off are ignored."""
        for name in names:
            with self._lock:
                if name in self._running:
                    self._again.add(name)
                    continue
            self._requests.put(name)

    def _serve_requests(self) -> None:
        """Set next run times in a separate thread: APScheduler may call `_ended` before it sets its own."""
        while True:
            try:
                name = self._requests.get(timeout=_CLOCK_CHECK_SECONDS)
            except queue.Empty:
                self._check_clock()
                continue
            if name is None:
                return
            self._set_next_run(name, datetime.now(UTC))

    def _set_next_run(self, name: str, when: datetime) -> None:
        try:
            self._scheduler.modify_job(name, next_run_time=when)
        except JobLookupError:
            # Its interval is 0.
            return

    def _check_clock(self) -> None:
        """Bring forward the jobs that a clock set back has moved into the future."""
        planned = [(job, job.next_run_time) for job in self._scheduler.get_jobs()]
        # Read last: a time planned meanwhile would seem to be too late.
        now = datetime.now(UTC)
        late = {
            job.id: latest
            for job, time in planned
            if (latest := job.trigger.get_next_fire_time(None, now)) is not None and time > latest
        }
        for name, latest in late.items():
            self._set_next_run(name, latest)
        if late:
            log.warning("clock was set back, jobs rescheduled jobs=%s", ",".join(late))

    def _run(self, schedule: Schedule) -> None:
        """Run the job in a daemon thread, which does not keep the process alive, and wait for it."""

        def run() -> None:
            with request_id(f"{schedule.name}-{choose_request_id(None)}"):
                self._run_logged(schedule)

        thread = threading.Thread(target=run, name=schedule.name, daemon=True)
        thread.start()
        while thread.is_alive():
            if time.monotonic() > self._give_up:
                log.warning("job did not end in time, left unfinished name=%s", schedule.name)
                return
            thread.join(_TICK)

    def _run_logged(self, schedule: Schedule) -> None:
        name = schedule.name
        with self._lock:
            self._running.add(name)
        log.debug("job started name=%s", name)
        try:
            with JOB_SECONDS.timed(name):
                summary = schedule.run()
        except DockerTorrentsError as error:
            JOB_RUNS.count(name, "failed")
            # The table or privilege may be missing for this job only.
            down = isinstance(error, DatabaseDown) and not isinstance(error, DatabaseNotReady)
            (self._database if down else self._outages[name]).failed(error)
            return
        except Exception:
            JOB_RUNS.count(name, "internal_error")
            log.exception("job failed with an internal error name=%s", name)
            return
        if was_paused(summary):
            JOB_RUNS.count(name, "failed")
        else:
            JOB_RUNS.count(name, "done")
            JOB_LAST_SUCCESS.set(time.time(), name)
        self._outages[name].succeeded()
        log.log(logging.DEBUG if summary.idle else logging.INFO, "job done name=%s result=%s", name, summary)
        if not summary.idle:
            # An idle run may have read only, from a database that refuses writes.
            self._database.succeeded()
            self.run_now(*schedule.then)

    def _ended(self, event: JobExecutionEvent) -> None:
        """Handle APScheduler's event that another run of the job may start."""
        name = event.job_id
        with self._lock:
            self._running.discard(name)
            again = name in self._again
            self._again.discard(name)
        if again:
            self._requests.put(name)


def trigger(schedule: Schedule) -> BaseTrigger:
    """Return APScheduler's trigger for `schedule`. Raises ValueError if its cron expression is invalid."""
    return EverySeconds(schedule.interval) if schedule.cron is None else cron_trigger(schedule.cron)
