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
from sql.errors import SqlError

log = logging.getLogger(__name__)

_SOME_DAY = datetime(2000, 1, 1, tzinfo=UTC)


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
        """Raises ValueError if a cron expression is none (see `cron_trigger`)."""
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
            self._scheduler.add_job(_logged, trigger(schedule), args=[schedule], id=schedule.name, **first)

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
    """APScheduler's trigger for `schedule`. Raises ValueError if its cron expression is none."""
    if schedule.cron is None:
        return IntervalTrigger(seconds=schedule.interval, timezone="UTC")
    return cron_trigger(schedule.cron)


def cron_trigger(expression: str) -> BaseTrigger:
    """APScheduler's trigger for a cron expression (crontab(5)), in UTC.

    Raises ValueError if it is none, or names a day that no month has.
    """
    minute, hour, day, month, weekday = with_named_weekdays(expression).split()
    times = {"minute": minute, "hour": hour, "month": month, "timezone": "UTC"}
    when: BaseTrigger
    if any(expression.split()[field].startswith("*") for field in (2, 4)):
        when = CronTrigger(day=day, day_of_week=weekday, **times)
    else:
        # crontab(5): with both days restricted, either of them will do. `*/2` does not count as restricted.
        when = OrTrigger([CronTrigger(day=day, **times), CronTrigger(day_of_week=weekday, **times)])
    if when.get_next_fire_time(None, _SOME_DAY) is None:
        raise ValueError(f"that time never comes: {expression!r}")
    return when


def _logged(schedule: Schedule) -> None:
    log.debug("job begins name=%s", schedule.name)
    try:
        log.info("job ended name=%s did=%s", schedule.name, schedule.run())
    except (DockerTorrentsError, SqlError) as error:
        log.error("job failed name=%s reason=%s", schedule.name, error)
    except Exception:
        log.exception("job failed, a fault of ours name=%s", schedule.name)
