"""The ids of an older service, on their way out of its table: each row is handed out once.

Nobody promises an index on that table, so it is copied into a temporary one that has one. All calls of a
run are made on one connection, that of `sql.transaction.scratch`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import sqlalchemy as sa

from sql.errors import TablesMissing
from sql.given import given_digests
from sql.tables import Tables


@dataclass(frozen=True, slots=True)
class OldId:
    """A row of the old table, as it stands there."""

    mds_key: str | None
    rbtorrent_id: str | None


def stage_old_ids(connection: sa.Connection, tables: Tables) -> int:
    """Copy the old table, of which nothing has been handed out then. Returns how many rows it has.

    Raises TablesMissing if that table, or one of the MDS driver's, is not there.
    """
    inspector = sa.inspect(connection)
    lacking = [
        table.name for table in (tables.old, tables.mfs, tables.mds) if not inspector.has_table(table.name)
    ]
    if lacking:
        raise TablesMissing(lacking)
    left, old = _left(tables), tables.old
    connection.execute(sa.schema.DropTable(left, if_exists=True))
    left.create(connection)
    copied = connection.execute(
        sa.insert(left).from_select(["mds_key", "rbtorrent_id"], sa.select(old.c.mds_key, old.c.rbtorrent_id))
    ).rowcount
    if connection.dialect.name == "postgresql":
        # Nobody else does it for a temporary table, and without it the planner has no use for the index.
        connection.exec_driver_sql(f"ANALYZE {left.name}")
    return copied


def hand_out_old_ids(connection: sa.Connection, tables: Tables, keys: Iterable[str]) -> list[OldId]:
    """The rows with these keys, which are not handed out again."""
    left = _left(tables)
    rows = connection.execute(
        sa.delete(left)
        .where(left.c.mds_key.in_(given_digests(connection, keys)))
        .returning(left.c.mds_key, left.c.rbtorrent_id)
    ).all()
    return [OldId(row.mds_key, row.rbtorrent_id) for row in rows]


def old_ids_left(connection: sa.Connection, tables: Tables, *, limit: int) -> tuple[int, list[OldId]]:
    """How many rows nobody asked for, and up to `limit` of them."""
    left = _left(tables)
    count = connection.scalars(sa.select(sa.func.count()).select_from(left)).one()
    rows = connection.execute(sa.select(left.c.mds_key, left.c.rbtorrent_id).limit(limit))
    return count, [OldId(row.mds_key, row.rbtorrent_id) for row in rows]


def drop_old_ids(connection: sa.Connection, tables: Tables) -> None:
    """Give the copy's room back."""
    connection.execute(sa.schema.DropTable(_left(tables), if_exists=True))


@lru_cache
def _left(tables: Tables) -> sa.Table:
    # One object: SQLAlchemy keeps each statement on another table by itself, with all its parameters.
    table = sa.Table(
        f"{tables.mapping.name}_old_ids",
        sa.MetaData(),
        sa.Column("mds_key", sa.Text),
        sa.Column("rbtorrent_id", sa.Text),
        prefixes=["TEMPORARY"],
    )
    sa.Index(f"{table.name}_key", table.c.mds_key)
    return table
