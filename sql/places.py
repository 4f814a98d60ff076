"""How far jobs have come that go round and round, so that the next run goes on from there."""

from __future__ import annotations

import sqlalchemy as sa

from sql.tables import Tables
from sql.upsert import insert


def find_place(connection: sa.Connection, tables: Tables, job: str) -> str:
    """Where the last run of `job` ended; an empty text at the beginning."""
    place = tables.place
    found = connection.scalars(sa.select(place.c.place).where(place.c.job == job)).one_or_none()
    return found or ""


def keep_place(connection: sa.Connection, tables: Tables, job: str, place: str) -> None:
    """Remember it for the next run."""
    keep = insert(connection, tables.place).values(job=job, place=place)
    connection.execute(
        keep.on_conflict_do_update(index_elements=["job"], set_={"place": keep.excluded.place})
    )
