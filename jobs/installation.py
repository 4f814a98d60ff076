"""Create missing tables and indexes (`init-db`)."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Engine

from core.command_line import DONE
from core.output import print_line
from jobs.service import Service, with_service
from jobs.summary import print_summary
from sql.schema import create_missing, ddl, missing_objects
from sql.tables import Tables
from sql.transaction import transaction


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `init-db`."""
    command.set_defaults(func=with_service(_run, stoppable=False))
    command.add_argument("--print", action="store_true", help="print the SQL statements and change nothing")


def _run(service: Service, arguments: argparse.Namespace) -> int:
    if arguments.print:
        print_line(ddl(service.tables, service.writable_engine.dialect).rstrip())
        return DONE
    return print_summary(init_db(service.writable_engine, service.tables))


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
