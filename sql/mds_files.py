"""The files of the registry's MDS driver, read from its tables, which are never written."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from sql.tables import Tables


@dataclass(frozen=True, slots=True)
class MdsRow:
    """A file in MDS: the driver's key, `mdsfileinfo` (JSON), and its path, None if it was not selected."""

    path: str | None
    key: str
    info: str | None
    deleted: bool


def list_files(
    connection: sa.Connection, tables: Tables, *, folder: str, after: str | None, limit: int
) -> tuple[list[tuple[str, int | None]], str | None]:
    """Return the next `limit` files in `folder`, as (path, size in bytes), and the last path.

    A file is in the folder if its path begins with it. In the order of paths, without files that are deleted
    or have no key in MDS. `after` is the last path of the page before. The last path is None at the end.
    """
    mds = tables.mds
    page = _page(tables, _inside(tables, folder), after, limit)
    rows = connection.execute(
        sa.select(page.c.path, page.c.size, mds.c.key, mds.c.deleted)
        .outerjoin(mds, mds.c.key == page.c.key)
        .order_by(page.c.path)
    ).all()
    files = [(row.path, row.size) for row in rows if row.key is not None and not row.deleted]
    return files, rows[-1].path if rows else None


def read_file_rows(
    connection: sa.Connection,
    tables: Tables,
    *,
    folder: str,
    outside: bool,
    after: str | None,
    limit: int,
) -> tuple[list[MdsRow], str | None]:
    """Return the next `limit` files in `folder`, or `outside` of it, and the last path.

    In the order of paths, deleted ones included, without files unknown to MDS. `after` is the last
    path of the page before. The last path is None at the end.
    """
    mds, inside = tables.mds, _inside(tables, folder)
    page = _page(tables, sa.not_(inside) if outside else inside, after, limit)
    rows = connection.execute(
        sa.select(page.c.path, mds.c.key, _info(tables), mds.c.deleted)
        .outerjoin(mds, mds.c.key == page.c.key)
        .order_by(page.c.path)
    ).all()
    found = [MdsRow(row.path, row.key, row.info, bool(row.deleted)) for row in rows if row.key is not None]
    return found, rows[-1].path if rows else None


def read_mds_rows(
    connection: sa.Connection, tables: Tables, *, after: str | None, limit: int
) -> tuple[list[MdsRow], str | None]:
    """Return the next `limit` entries of MDS after the key `after`, in the order of keys, and the last key.

    The last key is None at the end.
    """
    mds = tables.mds.c
    query = sa.select(mds.key, _info(tables), mds.deleted).order_by(mds.key).limit(limit)
    if after is not None:
        query = query.where(mds.key > after)
    rows = [MdsRow(None, row.key, row.info, bool(row.deleted)) for row in connection.execute(query).all()]
    return rows, rows[-1].key if rows else None


def _inside(tables: Tables, folder: str) -> sa.ColumnElement[bool]:
    return tables.mfs.c.path.startswith(folder, autoescape=True)


def _page(tables: Tables, which: sa.ColumnElement[bool], after: str | None, limit: int) -> sa.Subquery:
    """Select files without folders, in the order of the primary key, whatever the database's locale.

    They are selected before they are joined: a planner without statistics would join all of them.
    """
    mfs = tables.mfs.c
    query = sa.select(mfs.path, mfs.size, mfs.key).where(which, mfs.dir.is_not(sa.true()))
    if after is not None:
        query = query.where(mfs.path > after)
    return query.order_by(mfs.path).limit(limit).subquery("page")


def _info(tables: Tables) -> sa.Label[str]:
    # If the column has a JSON type, the driver would return objects.
    return sa.cast(tables.mds.c.mdsfileinfo, sa.Text).label("info")


def find_mds_file(connection: sa.Connection, tables: Tables, path: str) -> str | None:
    """Return the stored `mdsfileinfo` of the file at `path`.

    None if it is not in `mfs`, has no key, or is deleted.
    """
    mfs, mds = tables.mfs.c, tables.mds.c
    query = (
        sa.select(_info(tables))
        .join_from(tables.mfs, tables.mds, mfs.key == mds.key)
        .where(mfs.path == path, mds.deleted.is_not(sa.true()), mds.mdsfileinfo.is_not(None))
    )
    return connection.scalars(query).first()
