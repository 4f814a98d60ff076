"""Creates what the database lacks, and tells what could not be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from core.output import print_line
from sql.schema import create_missing, missing_objects
from sql.tables import Tables
from sql.transaction import transaction


@dataclass
class InitSummary:
    """How many tables and indexes were created, and how many are still lacking."""

    created: int
    failed: int

    def __str__(self) -> str:
        return f"created {self.created}, still lacking {self.failed}"


def init_db(engine: Engine, tables: Tables, report: Callable[[str], None] = print_line) -> InitSummary:
    """Creates what is missing and touches nothing that is there. Raises DatabaseDown."""
    with transaction(engine) as connection:
        created = create_missing(connection, tables)
        lacking = missing_objects(connection, tables)
    for what in created:
        report(f"created {what}")
    for what in lacking:
        report(f"still lacks {what}")
    return InitSummary(len(created), len(lacking))
