"""Cursors of jobs that walk the tables in rounds, so that the next run continues where the last one ended."""

from __future__ import annotations

import sqlalchemy as sa

from sql.bulk_values import insert
from sql.tables import Tables


def mapping_page(tables: Tables, *, after: str, limit: int) -> sa.Subquery:
    """Return the next `limit` rows of the mapping, by digest, to join with the queue.

    A subquery: joined directly, the queue would be read from its beginning.
    """
    mapping = tables.mapping
    rows = sa.select(mapping).where(mapping.c.digest > after).order_by(mapping.c.digest).limit(limit)
    return rows.subquery("page")


def find_cursor(connection: sa.Connection, tables: Tables, job: str) -> str:
    """Return where the last run of `job` ended, an empty string at the beginning."""
    place = tables.cursor
    found = connection.scalars(sa.select(place.c.place).where(place.c.job == job)).one_or_none()
    return found or ""


def save_cursor(connection: sa.Connection, tables: Tables, job: str, place: str) -> None:
    """Save where this run of `job` ended."""
    keep = insert(connection, tables.cursor).values(job=job, place=place)
    connection.execute(
        keep.on_conflict_do_update(index_elements=["job"], set_={"place": keep.excluded.place})
    )
