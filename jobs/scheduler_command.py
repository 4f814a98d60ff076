"""`scheduler`: run the scheduled jobs until stopped. The daemon runs them in the same way."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from core.command_line import DONE
from core.metrics import Readings, start_metrics
from core.metrics_server import serve_metrics
from core.queue_gauges import QueueGauges, queue_readings
from core.stopping import wait_until
from core.wake import WakeListener
from jobs.run_records import RunRecorder, recording
from jobs.scheduled_jobs import JOBS, STARTED_BY_EVENTS
from jobs.scheduler import Schedule, Scheduler
from jobs.service import Service, with_service
from sql.queue_counts import read_queue
from sql.transaction import reading


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the function of `scheduler`."""
    command.set_defaults(func=with_service(start_scheduler))


def schedules(service: Service, recorder: RunRecorder) -> list[Schedule]:
    """Return when the scheduler runs each job. `recorder` records the runs."""
    config = service.config
    return [
        Schedule(
            job.name,
            partial(recorder.run, job.name, partial(job.run, service)),
            job.seconds(config),
            job.settings(config.jobs).cron,
            job.then,
        )
        for job in JOBS.values()
        if job.enabled(config)
    ]


@contextmanager
def scheduled(service: Service) -> Iterator[None]:
    """Run the scheduled jobs within the block. Leaving it sets `service.stop` and waits for the jobs."""
    with recording(service) as recorder:
        scheduler = Scheduler(schedules(service, recorder), service.brew_outages.database)
        listener = WakeListener(
            service.config.application.state_dir, lambda: scheduler.run_now(*STARTED_BY_EVENTS)
        )
        scheduler.start()
        listener.start()
        try:
            yield
        finally:
            listener.stop()
            scheduler.stop(service.stop)


def start_scheduler(service: Service, arguments: argparse.Namespace) -> int:
    """Run the scheduled jobs until `service.stop` is set."""
    application = service.config.application
    with ExitStack() as running:
        if application.metrics_port is not None:
            start_metrics()
            gauges = QueueGauges(partial(read_gauges, service)).readings
            port, networks = application.metrics_port, application.status_networks
            running.enter_context(serve_metrics(application.host, port, networks, gauges))
        running.enter_context(scheduled(service))
        wait_until(service.stop)
    return DONE


def read_gauges(service: Service) -> Readings:
    """Return the gauges of the queue. Raises DatabaseDown."""
    with reading(service.writable_engine) as connection:
        return queue_readings(*read_queue(connection, service.tables, now=service.now(connection)))
