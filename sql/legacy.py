"""The tables of the registry's MDS driver, which are read and never written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from sql.tables import Tables

# Engines limit the parameters of a statement.
_AT_ONCE = 500


def find_mds_files(connection: sa.Connection, tables: Tables, paths: Sequence[str]) -> dict[str, str]:
    """The `mdsfileinfo`, as it stands there, of each of the files at `paths` that MDS holds.

    Files that are not in `mfs`, have no key, or are deleted are left out.
    """
    mfs, mds = tables.mfs.c, tables.mds.c
    query = (
        # Where the column is of a JSON type, the driver would hand over objects.
        sa.select(mfs.path, sa.cast(mds.mdsfileinfo, sa.Text))
        .join_from(tables.mfs, tables.mds, mfs.key == mds.key)
        .where(mds.deleted.is_not(sa.true()), mds.mdsfileinfo.is_not(None))
    )
    return {
        path: text
        for some in _batches(paths)
        for path, text in connection.execute(query.where(mfs.path.in_(some)))
    }


def _batches(paths: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(paths), _AT_ONCE):
        yield paths[start : start + _AT_ONCE]
