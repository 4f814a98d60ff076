"""The scheduled jobs: names, help, default intervals and functions, in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from core.config import jobs as sections
from core.config.config import Config
from core.errors import ConfigInvalid
from core.manifests.platform import Platform
from jobs.brew import brew
from jobs.prune import prune
from jobs.publish_whitelist import publish_whitelist
from jobs.release_locks import release_locks
from jobs.repository_scan import Scan
from jobs.resolve_manifests import resolve_manifests
from jobs.scan_tags import scan_tags
from jobs.service import Service
from jobs.summary import Summary
from sql.tables import Priority


@dataclass(frozen=True)
class Job:
    """A scheduled job. `run` does one run and returns its summary.

    `settings` returns the job's section of the configuration; `interval` is the default one in seconds, or
    returns it. `enabled` returns whether the scheduler runs the job. `dry_run` does the same without
    changing anything. A run that was not idle starts the jobs named in `then` at once.
    """

    name: str
    help: str
    run: Callable[[Service], Summary]
    settings: Callable[[sections.Jobs], sections.Job]
    interval: float | Callable[[Config], float]
    enabled: Callable[[Config], bool] = lambda config: True
    dry_run: Callable[[Service], Summary] | None = None
    then: tuple[str, ...] = ()

    def longest_pause(self, config: Config) -> float:
        """Return the seconds between two runs by the scheduler, at most; 0 if it does not run this job."""
        if cron := self.settings(config.jobs).cron:
            # APScheduler, which few commands need.
            from jobs.cron import longest_pause

            return longest_pause(cron, datetime.now(UTC))
        return self.seconds(config)

    def seconds(self, config: Config) -> float:
        """Return the seconds between two runs that do not follow a cron expression."""
        configured = self.settings(config.jobs).interval
        if configured is not None:
            return configured
        return self.interval(config) if callable(self.interval) else self.interval


def _scan_tags(service: Service) -> Summary:
    options = service.config.jobs.scan_tags
    return scan_tags(
        Scan(
            service,
            registry=service.registry.paced(service.pace(options.rate)),
            priority=Priority.SCANNED,
            platforms=tuple(Platform.parse(name) for name in options.platforms),
        )
    )


def _publish_whitelist(service: Service) -> Summary:
    options = service.config.jobs.publish_whitelist
    if options.file is None:
        raise ConfigInvalid("jobs.publish-whitelist", ["file is required to publish a whitelist"])
    return publish_whitelist(service.database, service.tables, options.file, options.reload_command or ())


JOBS = {
    job.name: job
    for job in (
        Job(
            "brew",
            "brew the layers in the queue",
            brew,
            settings=lambda jobs: jobs.brew,
            interval=lambda config: config.brewer.sleep_time,
        ),
        Job(
            "release-locks",
            "release the locks of brewers that died",
            release_locks,
            settings=lambda jobs: jobs.release_locks,
            interval=60,
        ),
        Job(
            "resolve-manifests",
            "find the layers of pushed manifests whose events did not list them",
            resolve_manifests,
            settings=lambda jobs: jobs.resolve_manifests,
            interval=10,
            then=("brew",),
        ),
        Job(
            "scan-tags",
            "queue new layers of the repositories that have the role",
            _scan_tags,
            settings=lambda jobs: jobs.scan_tags,
            interval=3600,
            then=("brew",),
        ),
        Job(
            "prune",
            "remove layers that the registry no longer has",
            prune,
            settings=lambda jobs: jobs.prune,
            interval=3600,
            dry_run=partial(prune, dry_run=True),
        ),
        Job(
            "publish-whitelist",
            "write the info-hashes for a tracker's whitelist",
            _publish_whitelist,
            settings=lambda jobs: jobs.publish_whitelist,
            interval=60,
            enabled=lambda config: config.jobs.publish_whitelist.file is not None,
        ),
    )
}
"""Every job by its name."""

STARTED_BY_EVENTS = ("resolve-manifests", "brew")
"""The jobs that a notification starts at once (core/wake.py)."""


def expected_pauses(config: Config) -> dict[str, float]:
    """Return the seconds between two runs of each job that the scheduler runs."""
    pauses = {job.name: job.longest_pause(config) for job in JOBS.values() if job.enabled(config)}
    return {name: seconds for name, seconds in pauses.items() if seconds}
