"""Create missing tables and indexes (`init-db`), and warn of torrents that cannot be downloaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from core.config.config import Config
from core.output import print_line
from sql.schema import create_missing, missing_objects
from sql.tables import Tables
from sql.transaction import transaction

log = logging.getLogger(__name__)


def warn_of_useless_torrents(config: Config) -> None:
    """Log a warning if torrents have neither a tracker nor a web seed."""
    if not (config.trackers or config.web_seeds):
        log.warning(
            "torrents have neither tracker nor web seed, so they cannot be downloaded: "
            "set torrents.trackers and application.public_url"
        )


@dataclass
class InitSummary:
    """How many tables and indexes were created, and how many are still missing."""

    created: int
    failed: int

    def __str__(self) -> str:
        return f"created {self.created}, still missing {self.failed}"


def init_db(engine: Engine, tables: Tables, report: Callable[[str], None] = print_line) -> InitSummary:
    """Create missing tables and indexes; change no existing ones. Raises DatabaseDown."""
    with transaction(engine) as connection:
        created = create_missing(connection, tables)
        lacking = missing_objects(connection, tables)
    for what in created:
        report(f"created {what}")
    for what in lacking:
        report(f"still missing: {what}")
    return InitSummary(len(created), len(lacking))
