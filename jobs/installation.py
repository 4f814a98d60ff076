"""Create what the database lacks, and probe every dependency: `init-db` and `check`."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from core.access.access import choose_access
from core.access.blackbox import BlackboxAccess
from core.config.config import Config
from core.errors import DatabaseDown, DatabaseNotReady, DockerTorrentsError, StoreFailed
from core.output import print_line
from core.torrents.store import MetainfoStore
from jobs.service import Service
from sql.schema import create_missing, missing_grants, missing_objects
from sql.tables import Tables
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

Probe = Callable[[], str]
"""Gives a line on what it found, or raises a DockerTorrentsError."""


@dataclass
class CheckSummary:
    """How many dependencies were probed, and how many of them failed."""

    checked: int = 0
    failed: int = 0

    def __str__(self) -> str:
        return f"checked {self.checked}, failed {self.failed}"


def check(probes: Iterable[tuple[str, Probe]], report: Callable[[str], None] = print_line) -> CheckSummary:
    """Run all `probes`, and report each in a line, whatever the others raise."""
    summary = CheckSummary()
    for name, probe in probes:
        summary.checked += 1
        try:
            line = f"ok      {name:<10} {probe()}"
        except Exception as error:  # noqa: BLE001 - whatever one raises, the others are probed
            summary.failed += 1
            said = " ".join(str(error).split())
            if not isinstance(error, DockerTorrentsError):
                said = f"{type(error).__name__}: {said}"
            line = f"failed  {name:<10} {said}"
        report(line)
    return summary


def probes(service: Service) -> Iterator[tuple[str, Probe]]:
    """Yield what `check` probes, each after what it depends on."""
    config = service.config
    folder = config.metainfo_dir if config.torrents.store == "directory" else None
    yield "database", lambda: probe_database(service.engine, service.tables)
    yield "registry", lambda: service.registry.ping()
    yield "layers", lambda: service.source.check()
    yield "metainfo", lambda: probe_store(service.store, folder)
    if isinstance(access := choose_access(config, service.registry, time.monotonic), BlackboxAccess):
        yield "blackbox", access.check


def warn_of_useless_torrents(config: Config) -> None:
    """Log a warning if torrents have neither a tracker nor a web seed."""
    if not (config.trackers or config.web_seeds):
        log.warning(
            "torrents have neither tracker nor web seed, so they cannot be downloaded: "
            "set torrents.trackers and application.public_url"
        )


def probe_database(engine: Engine, tables: Tables) -> str:
    """Check that the database takes writes to every table, and return what is missing. Raises DatabaseDown.

    Nothing is created, not even a SQLite file.
    """
    if engine.name == "sqlite" and not _exists(file := Path(engine.url.database or "")):
        if (why := _unusable(file)) is not None:
            raise DatabaseDown(why)
        return f"sqlite {file} will be created at first use"
    if engine.name == "sqlite" and not os.access(file, os.W_OK, effective_ids=True):
        raise DatabaseDown(f"{file}: permission denied for this user")
    with reading(engine) as connection:
        lacking = missing_objects(connection, tables)
        to_do = [f"missing {what}" for what in lacking if what.startswith("column ")]
        to_do += missing_grants(connection, tables, lacking)
    if to_do:
        raise DatabaseNotReady("; ".join(to_do))
    made = f", {len(lacking)} tables and indexes will be created at first use" if lacking else ""
    return f"{engine.dialect.name} takes writes{made}"


def probe_store(store: MetainfoStore, folder: Path | None) -> str:
    """Check that the metainfo store works. A `folder` is not created. Raises StoreFailed."""
    if folder is None or _exists(folder):
        return store.check()
    if (why := _unusable(folder)) is not None:
        raise StoreFailed(str(folder), why)
    return f"directory {folder} will be created at first use"


def _exists(path: Path) -> bool:
    # Path.exists() raises PermissionError for what is in a folder that may not be searched.
    return os.path.exists(path)


def _unusable(path: Path) -> str | None:
    """Return why `path`, which does not exist, cannot be created, or None."""
    above = next(parent for parent in path.absolute().parents if _exists(parent))
    if not above.is_dir():
        return f"{above} is not a directory"
    return (
        None
        if os.access(above, os.W_OK | os.X_OK, effective_ids=True)
        else f"{above} is not writable by this user"
    )


@dataclass
class InitSummary:
    """How many tables and indexes were created, and how many are still missing."""

    created: int
    failed: int

    def __str__(self) -> str:
        return f"created {self.created}, still missing {self.failed}"


def init_db(engine: Engine, tables: Tables, report: Callable[[str], None] = print_line) -> InitSummary:
    """Create what is missing, and change nothing that exists. Raises DatabaseDown."""
    with transaction(engine) as connection:
        created = create_missing(connection, tables)
        lacking = missing_objects(connection, tables)
    for what in created:
        report(f"created {what}")
    for what in lacking:
        report(f"still missing: {what}")
    return InitSummary(len(created), len(lacking))
