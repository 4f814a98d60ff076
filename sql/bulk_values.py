"""Rows passed to a statement in bulk, and INSERT with ON CONFLICT: SQL that differs between the engines.

Any number of rows takes one or two parameters, and the statement's text stays the same: PostgreSQL unnests
arrays, SQLite expands a JSON text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from core.digest import Digest

Columns = Mapping[str, TypeEngine[int] | TypeEngine[str]]


class BulkParameter:
    """A parameter for any number of rows, in a statement that is built once and run with new rows each time.

    Building a statement costs SQLAlchemy more time than running it costs PostgreSQL, so frequent statements
    are built once.
    """

    def __init__(self, name: str, columns: Columns) -> None:
        self._name = name
        self._columns = columns

    def relation(self, dialect: str, rows: Iterable[Sequence[object]] | None = None) -> sa.Subquery:
        """Return the relation for `dialect`, postgresql or sqlite. With `rows` it contains those."""
        values = None if rows is None else self.parameters(dialect, rows)

        def parameter(name: str, type_: TypeEngine[Any]) -> sa.BindParameter[Any]:
            if values is None:
                return sa.bindparam(name, type_=type_)
            return sa.bindparam(name, values[name], type_, unique=True)

        if dialect == "postgresql":
            arrays = [
                sa.cast(parameter(f"{self._name}_{column}", ARRAY(type_)), ARRAY(type_))
                for column, type_ in self._columns.items()
            ]
            named = [sa.column(column, type_) for column, type_ in self._columns.items()]
            unnested = sa.func.unnest(*arrays).table_valued(*named).render_derived()
            return sa.select(*unnested.c).subquery(self._name)
        each = sa.func.json_each(parameter(self._name, sa.Text())).table_valued("value")
        columns = (
            sa.type_coerce(sa.func.json_extract(each.c.value, f"$[{position}]"), type_).label(column)
            for position, (column, type_) in enumerate(self._columns.items())
        )
        return sa.select(*columns).subquery(self._name)

    def parameters(self, dialect: str, rows: Iterable[Sequence[object]]) -> dict[str, object]:
        """Return the parameters for `rows`."""
        rows = list(rows)
        if dialect == "postgresql":
            return {
                f"{self._name}_{column}": [row[position] for row in rows]
                for position, column in enumerate(self._columns)
            }
        return {self._name: json.dumps(rows)}


def bulk_values(
    connection: sa.Connection, name: str, columns: Columns, rows: Iterable[Sequence[object]]
) -> sa.Subquery:
    """Return `rows` as a subquery `name` with these columns, for a statement that runs once."""
    return BulkParameter(name, columns).relation(connection.dialect.name, rows)


def digest_values(connection: sa.Connection, digests: Iterable[Digest | str]) -> sa.Select[str]:
    """Return `digests` for the right side of IN, in a statement that runs once."""
    rows = bulk_values(connection, "wanted", {"digest": sa.Text()}, ((str(digest),) for digest in digests))
    return sa.select(rows.c.digest)


def insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT into `table` that supports `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return insert_for(connection.dialect.name, table)


def insert_for(dialect: str, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """Return such an INSERT for a statement that is built once, for `dialect`: postgresql or sqlite."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
