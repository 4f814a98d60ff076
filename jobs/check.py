"""Probes each dependency and says in one line each whether it will do."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from core.access.blackbox import BlackboxAccess
from core.access.chosen import choose_access
from core.config.config import Config
from core.errors import DatabaseDown, DatabaseNotReady, DockerTorrentsError, StoreFailed
from core.output import print_line
from core.torrents.store import MetainfoStore
from jobs.service import Service
from sql.schema import missing_grants, missing_objects
from sql.tables import Tables
from sql.transaction import transaction

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
    """Runs every one of `probes`, whatever the others give, and tells of each in a line."""
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
    """Whether the database takes writes to each table, and what is not there yet. Raises DatabaseDown.

    A SQLite file is not made.
    """
    if engine.name == "sqlite" and not _there(file := Path(engine.url.database or "")):
        if (why := _unusable(file)) is not None:
            raise DatabaseDown(why)
        return f"sqlite {file} is made at first use"
    with transaction(engine) as connection:
        lacking = missing_objects(connection, tables)
        to_do = [f"lacks {what}" for what in lacking if what.startswith("column ")]
        to_do += missing_grants(connection, tables, lacking)
    if to_do:
        raise DatabaseNotReady("; ".join(to_do))
    made = f", {len(lacking)} tables and indexes are made at first use" if lacking else ""
    return f"{engine.dialect.name} takes writes{made}"


def probe_store(store: MetainfoStore, folder: Path | None) -> str:
    """Whether the metainfo store works. One that is a `folder` is not made. Raises StoreFailed."""
    if folder is None or _there(folder):
        return store.check()
    if (why := _unusable(folder)) is not None:
        raise StoreFailed(str(folder), why)
    return f"directory {folder} is made at first use"


def _there(path: Path) -> bool:
    # Path.exists() raises PermissionError for what is in a folder that may not be searched.
    return os.path.exists(path)


def _unusable(path: Path) -> str | None:
    """Why `path`, which is not there, cannot be made."""
    above = next(parent for parent in path.absolute().parents if _there(parent))
    if not above.is_dir():
        return f"{above} is no folder"
    return (
        None
        if os.access(above, os.W_OK | os.X_OK, effective_ids=True)
        else f"{above} is not writable for this user"
    )
