"""Creates what the database lacks, and tells what could not be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from core.output import tell
from sql.schema import create_missing, missing
from sql.tables import Tables
from sql.transaction import transaction


@dataclass
class InitSummary:
    """How many tables and indexes were created, and how many are still lacking."""

    created: int
    failed: int

    def __str__(self) -> str:
        return f"created {self.created}, still lacking {self.failed}"


def init_db(engine: Engine, tables: Tables, tell: Callable[[str], None] = tell) -> InitSummary:
    """Creates what is missing and touches nothing that is there. Raises DatabaseDown."""
    with transaction(engine) as connection:
        created = create_missing(connection, tables)
        lacking = missing(connection, tables)
    for what in created:
        tell(f"created {what}")
    for what in lacking:
        tell(f"still lacks {what}")
    return InitSummary(len(created), len(lacking))
