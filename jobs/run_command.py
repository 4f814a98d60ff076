"""`run JOB`: one run of a scheduled job, for system cron."""

from __future__ import annotations

import argparse
from functools import partial

from core.logs import choose_request_id, request_id
from jobs.run_records import recording
from jobs.scheduled_jobs import JOBS
from jobs.service import Service, with_service
from jobs.summary import print_summary


def add_options(run: argparse.ArgumentParser) -> None:
    """Add the options of `run`, and the jobs to its help."""
    run.set_defaults(func=with_service(_run), check=_check)
    jobs = "\n".join(f"  {job.name:<20} {job.help}" for job in JOBS.values())
    run.epilog = f"jobs:\n{jobs}\n\n{run.epilog}"
    run.add_argument("job", choices=JOBS, metavar="JOB", help="one of the jobs listed below")
    run.add_argument(
        "--dry-run", action="store_true", help="for prune: print what would be removed, and change nothing"
    )


def _check(arguments: argparse.Namespace) -> str | None:
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
