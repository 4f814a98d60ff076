"""Probes each dependency and says in one line each whether it will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sqlalchemy import Engine

from core.errors import DockerTorrentsError
from sql.errors import SqlError
from sql.schema import missing
from sql.tables import Tables
from sql.transaction import transaction

Probe = Callable[[], str]
"""Gives a line on what it found, or raises a DockerTorrentsError or SqlError."""


@dataclass
class CheckSummary:
    """How many dependencies were probed, and how many of them failed."""

    checked: int = 0
    failed: int = 0

    def __str__(self) -> str:
        return f"checked {self.checked}, failed {self.failed}"


def check(probes: Iterable[tuple[str, Probe]], tell: Callable[[str], None] = print) -> CheckSummary:
    """Runs every one of `probes`, whatever the others give, and tells of each in a line."""
    summary = CheckSummary()
    for name, probe in probes:
        summary.checked += 1
        try:
            tell(f"ok      {name:<10} {probe()}")
        except (DockerTorrentsError, SqlError) as error:
            summary.failed += 1
            tell(f"failed  {name:<10} {error}")
    return summary


def probe_database(engine: Engine, tables: Tables) -> str:
    """Whether the database takes writes, and what is not there yet. Raises DatabaseDown."""
    with transaction(engine) as connection:
        lacking = missing(connection, tables)
    made = f", {len(lacking)} tables and indexes are made at first use" if lacking else ""
    return f"{engine.dialect.name} takes writes{made}"
