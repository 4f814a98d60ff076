"""The commands of `jobs`: `run`, `scheduler`, `init-db` and `check`; the others have their own files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from core.command_line import DONE, Commands, add_command
from core.logs import choose_request_id, request_id
from core.metrics import Readings, start_metrics
from core.metrics_server import serve_metrics
from core.output import print_line
from core.probing import check
from core.queue_gauges import QueueGauges
from core.stopping import wait_until
from core.wake import WakeListener
from jobs import backfill_commands, queue_commands, role_commands, show
from jobs.check import probes
from jobs.installation import init_db, warn_of_useless_torrents
from jobs.run_records import recording
from jobs.scheduled_jobs import JOBS, STARTED_BY_EVENTS, schedules
from jobs.scheduler import Scheduler
from jobs.service import Service, with_service
from jobs.summary import print_summary
from sql.queue_counts import read_queue
from sql.schema import ddl
from sql.transaction import reading


def add_commands(commands: Commands) -> None:
    """Add all commands of this package."""
    add_command(
        commands,
        "scheduler",
        "Run the scheduled jobs until stopped.",
        "scheduler",
        with_service(start_scheduler),
    )
    _add_run(commands)
    backfill_commands.add_commands(commands)
    role_commands.add_commands(commands)
    queue_commands.add_commands(commands)
    show.add_commands(commands)
    init = add_command(
        commands,
        "init-db",
        "Create missing tables and indexes in the database.",
        "init-db --print | psql",
        with_service(_init_db, stoppable=False),
    )
    init.add_argument("--print", action="store_true", help="print the SQL statements and change nothing")
    add_command(
        commands,
        "check",
        "Check the configuration and every dependency.",
        "check",
        with_service(_check, stoppable=False),
    )


def _add_run(commands: Commands) -> None:
    run = add_command(
        commands,
        "run",
        "Run one scheduled job once, for system cron.",
        "run brew",
        with_service(_run),
        check=_check_run,
    )
    jobs = "\n".join(f"  {job.name:<20} {job.help}" for job in JOBS.values())
    run.epilog = f"jobs:\n{jobs}\n\n{run.epilog}"
    run.add_argument("job", choices=JOBS, metavar="JOB", help="one of the jobs listed below")
    run.add_argument(
        "--dry-run", action="store_true", help="for prune: print what would be removed, and change nothing"
    )


def _check_run(arguments: argparse.Namespace) -> str | None:
    if arguments.dry_run and JOBS[arguments.job].dry_run is None:
        able = ", ".join(name for name, job in JOBS.items() if job.dry_run)
        return f"{arguments.job} has no --dry-run, only {able} has"
    return None


def _run(service: Service, arguments: argparse.Namespace) -> int:
    job = JOBS[arguments.job]
    with request_id(f"{job.name}-{choose_request_id(None)}"):
        if arguments.dry_run and job.dry_run:
            return print_summary(job.dry_run(service))
        if not job.enabled(service.config):
            # Not recorded: the scheduler does not run this job, so the failure would stay in /healthz
            # forever.
            return print_summary(job.run(service))
        with recording(service) as recorder:
            summary = recorder.run(job.name, partial(job.run, service))
        return print_summary(summary)


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
        return read_queue(connection, service.tables, now=service.now(connection))


def _init_db(service: Service, arguments: argparse.Namespace) -> int:
    if arguments.print:
        print_line(ddl(service.tables, service.writable_engine.dialect).rstrip())
        return DONE
    return print_summary(init_db(service.writable_engine, service.tables))


def _check(service: Service, arguments: argparse.Namespace) -> int:
    warn_of_useless_torrents(service.config)
    return print_summary(check(probes(service)))
