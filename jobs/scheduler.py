"""Runs the jobs by the clock, with APScheduler: each one alone, never twice at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger
from apscheduler.triggers.combining import OrTrigger
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.interval import IntervalTrigger

from core.errors import DockerTorrentsError
from jobs.cron import with_named_weekdays
from sql.errors import DatabaseDown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """A job by its name: `run` gives a summary; every `interval` seconds (0: never), or by `cron`."""

    name: str
    run: Callable[[], object]
    interval: float = 0
    cron: str | None = None


class Scheduler:
    """The scheduled jobs, in threads. A job that fails is logged and runs again at its next time."""

    def __init__(self, schedules: list[Schedule]) -> None:
        """Raises ValueError, with the key's path, if a cron expression is none."""
        self._scheduler = BackgroundScheduler(
            timezone="UTC",
            # A run that was missed while the last one went on is made up for once, however late.
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        # It warns whenever a run outlasts its interval, which a long brew does by design.
        logging.getLogger("apscheduler").setLevel(logging.ERROR)
        for schedule in schedules:
            if schedule.cron is None and not schedule.interval:
                continue
            first = {} if schedule.cron else {"next_run_time": datetime.now(UTC)}
            try:
                when = trigger(schedule)
            except ValueError as error:
                raise ValueError(f"jobs.{schedule.name}.cron: {error}") from error
            self._scheduler.add_job(_logged, when, args=[schedule], id=schedule.name, **first)

    def start(self) -> None:
        """Starts the jobs that have an interval at once, the others at their time."""
        for job in self._scheduler.get_jobs():
            log.info("job scheduled name=%s when=%s", job.id, job.trigger)
        self._scheduler.start()

    def stop(self, stop: threading.Event) -> None:
        """Sets `stop`, which ends the running jobs, and waits for them."""
        stop.set()
        self._scheduler.shutdown(wait=True)


def trigger(schedule: Schedule) -> BaseTrigger:
    """APScheduler's trigger for `schedule`, in UTC. Raises ValueError if its cron expression is none."""
    if schedule.cron is None:
        return IntervalTrigger(seconds=schedule.interval, timezone="UTC")
    minute, hour, day, month, weekday = with_named_weekdays(schedule.cron).split()
    if "*" in (day, weekday):
        return CronTrigger(
            minute=minute, hour=hour, day=day, month=month, day_of_week=weekday, timezone="UTC"
        )
    # crontab(5): with both days restricted, either of them will do.
    return OrTrigger(
        [
            CronTrigger(minute=minute, hour=hour, day=day, month=month, timezone="UTC"),
            CronTrigger(minute=minute, hour=hour, month=month, day_of_week=weekday, timezone="UTC"),
        ]
    )


def _logged(schedule: Schedule) -> None:
    try:
        log.info("job ended name=%s did=%s", schedule.name, schedule.run())
    except (DockerTorrentsError, DatabaseDown) as error:
        log.error("job failed name=%s reason=%s", schedule.name, error)
    except Exception:
        log.exception("job failed, a fault of ours name=%s", schedule.name)
