"""One run of each scheduled job, put together from the parts there are, and when the scheduler runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol

from sqlalchemy import Engine

from core.config.config import Config
from core.config.jobs import SECONDS
from core.errors import ConfigInvalid
from core.layer_places import LayerPlaces
from core.manifests.platform import Platform
from core.pace import Pace
from core.registry.client import RegistryClient
from core.stores.store import MetainfoStore
from jobs.brew import Brewery, brew
from jobs.prune import Pruning, prune
from jobs.publish_whitelist import Whitelist, publish_whitelist
from jobs.release_locks import release_locks
from jobs.repository_scan import Scan
from jobs.resolve_manifests import resolve_manifests
from jobs.scan_tags import scan_tags
from jobs.scheduler import Schedule
from sql.tables import Priority, Tables


class Kit(Protocol):
    """What jobs are put together from; `database` has all its tables, `stop` is set when a run is to end."""

    @property
    def config(self) -> Config: ...
    @property
    def stop(self) -> threading.Event: ...
    @property
    def database(self) -> Engine: ...
    @property
    def tables(self) -> Tables: ...
    @property
    def registry(self) -> RegistryClient: ...
    @property
    def places(self) -> LayerPlaces: ...
    @property
    def store(self) -> MetainfoStore: ...
    @property
    def brewery(self) -> Brewery: ...


def run_brew(kit: Kit) -> object:
    return brew(kit.brewery, kit.stop)


def run_release_locks(kit: Kit) -> object:
    brewer = kit.config.brewer
    return release_locks(
        kit.database,
        kit.tables,
        now=int(time.time()),
        brew_discard_timeout=brewer.brew_discard_timeout,
        max_attempts=brewer.max_attempts,
    )


def run_resolve_manifests(kit: Kit) -> object:
    return resolve_manifests(
        kit.database,
        kit.tables,
        kit.registry,
        clock=time.time,
        stop=kit.stop,
        max_attempts=kit.config.brewer.max_attempts,
    )


def run_scan_tags(kit: Kit) -> object:
    settings = kit.config.jobs.scan_tags
    return scan_tags(
        Scan(
            engine=kit.database,
            tables=kit.tables,
            registry=kit.registry.paced(Pace(settings.rate, sleep=kit.stop.wait)),
            clock=time.time,
            priority=Priority.SCANNED,
            stop=kit.stop,
            platforms=tuple(Platform.parse(name) for name in settings.platforms),
        )
    )


def run_prune(kit: Kit) -> object:
    return prune(_pruning(kit))


def run_prune_dry(kit: Kit) -> object:
    return prune(replace(_pruning(kit), dry_run=True))


def _pruning(kit: Kit) -> Pruning:
    settings = kit.config.jobs.prune
    return Pruning(
        engine=kit.database,
        tables=kit.tables,
        lookout=kit.places.lookout(),
        store=kit.store,
        clock=time.time,
        stop=kit.stop,
        grace=settings.grace,
        limit=settings.limit,
    )


def run_publish_whitelist(kit: Kit) -> object:
    settings = kit.config.jobs.publish_whitelist
    if settings.file is None:
        raise ConfigInvalid("jobs.publish-whitelist", ["file is not given, so there is nowhere to publish"])
    return publish_whitelist(
        Whitelist(kit.database, kit.tables, settings.file, settings.reload_command or ())
    )


JOBS: dict[str, Callable[[Kit], object]] = {
    "brew": run_brew,
    "release-locks": run_release_locks,
    "resolve-manifests": run_resolve_manifests,
    "scan-tags": run_scan_tags,
    "prune": run_prune,
    "publish-whitelist": run_publish_whitelist,
}


def schedules(kit: Kit) -> list[Schedule]:
    """When each job runs; publish-whitelist only where there is a place to publish."""
    jobs = kit.config.jobs
    times = {
        "brew": jobs.brew,
        "release-locks": jobs.release_locks,
        "resolve-manifests": jobs.resolve_manifests,
        "scan-tags": jobs.scan_tags,
        "prune": jobs.prune,
        **({"publish-whitelist": jobs.publish_whitelist} if jobs.publish_whitelist.file else {}),
    }
    seconds = {"brew": kit.config.brewer.sleep_time, **SECONDS}
    return [
        Schedule(
            name,
            partial(JOBS[name], kit),
            seconds[name] if time.interval is None else time.interval,
            time.cron,
        )
        for name, time in times.items()
    ]
