"""The schema: missing objects, creating them, and the privileges that the service needs."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from core.errors import DatabaseRefused
from sql.postgresql import check_not_full
from sql.sqlite import check_room
from sql.tables import OPTIONAL, Tables


def missing_objects(connection: sa.Connection, tables: Tables) -> list[str]:
    """Return the missing objects, as `table x`, `column x.y`, `index z`."""
    wanted = tables.metadata.sorted_tables
    inspector = sa.inspect(connection)
    # All tables at once: on PostgreSQL that is one query, not one for each table.
    names = [table.name for table in wanted]
    columns = {name: found for (_, name), found in inspector.get_multi_columns(filter_names=names).items()}
    indexes = {name: found for (_, name), found in inspector.get_multi_indexes(filter_names=names).items()}
    lacking = []
    for table in wanted:
        if table.name not in columns:
            lacking.append(f"table {table.name}")
        else:
            has = {column["name"] for column in columns[table.name]}
            lacking += [f"column {table.name}.{column.name}" for column in table.c if column.name not in has]
        indexed = {index["name"] for index in indexes.get(table.name, ())}
        lacking += [f"index {index.name}" for index in _indexes(table) if index.name not in indexed]
    return lacking


def lacks_optional_tables_only(connection: sa.Connection, tables: Tables) -> bool:
    """Return whether only optional tables are missing."""
    optional = [table for table in tables.metadata.sorted_tables if table.info == OPTIONAL]
    names = {f"table {table.name}" for table in optional}
    names |= {f"index {index.name}" for table in optional for index in table.indexes}
    return names.issuperset(missing_objects(connection, tables))


def probe_writable(connection: sa.Connection, tables: Tables) -> None:
    """Read a row of the mapping. Raises DatabaseRefused if it refuses writes, DatabaseDown on a full disk.

    A connection may be older than the server's change from primary to standby.
    """
    connection.execute(sa.select(tables.mapping.c.digest).limit(1)).first()
    if connection.dialect.name == "sqlite":
        check_room(connection.engine)
        return
    if connection.exec_driver_sql("SHOW transaction_read_only").scalar() != "off":
        raise DatabaseRefused("it is read-only")
    check_not_full(connection.engine)


def existing_tables(connection: sa.Connection, tables: Tables) -> Tables:
    """Return `tables` with missing ones replaced by empty ones, for statements that only read."""
    names = set(sa.inspect(connection).get_table_names())
    absent: dict[str, Any] = {
        field.name: _empty(table)
        for field in fields(tables)
        if isinstance(table := getattr(tables, field.name), sa.Table) and table.name not in names
        if table.metadata is tables.metadata
    }
    return replace(tables, **absent)


def _empty(table: sa.Table) -> sa.Subquery:
    columns = (sa.cast(sa.null(), column.type).label(column.name) for column in table.c)
    return sa.select(*columns).where(sa.false()).subquery(table.name)


def create_missing(connection: sa.Connection, tables: Tables) -> list[str]:
    """Create the tables and indexes that the database lacks, in the transaction of `connection`.

    Return the created objects, named as in `missing_objects`. Existing tables are not changed: a missing
    column stays missing, and so do its table's indexes that use it. Several processes may do this at once; if
    nothing is missing, no privilege to create is needed. On PostgreSQL, writers to a table wait while it gets
    a new index.
    """
    if connection.dialect.name == "postgresql":
        # Held until the end of the transaction, which is what PgBouncer allows.
        key = zlib.crc32(f"create {tables.mapping.name}".encode())
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
    lacking = set(missing_objects(connection, tables))
    created = []
    for table in tables.metadata.sorted_tables:
        if f"table {table.name}" in lacking:
            connection.execute(CreateTable(table))
            created.append(f"table {table.name}")
        # An index may use a column that is missing.
        in_part = any(what.startswith(f"column {table.name}.") for what in lacking)
        for index in _indexes(table):
            if f"index {index.name}" in lacking and not in_part:
                connection.execute(CreateIndex(index))
                created.append(f"index {index.name}")
    return created


def ddl(tables: Tables, dialect: sa.Dialect) -> str:
    """Return the whole schema as SQL for psql or sqlite3. Running it again changes nothing."""
    statements: list[str] = []
    for table in tables.metadata.sorted_tables:
        create = str(CreateTable(table, if_not_exists=True).compile(dialect=dialect))
        statements.append("\n".join(line.rstrip() for line in create.strip().splitlines() if line.strip()))
        for index in _indexes(table):
            statements.append(str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect)).strip())
    return "".join(f"{statement};\n" for statement in statements)


def _indexes(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")


def missing_grants(connection: sa.Connection, tables: Tables, lacking: Sequence[str]) -> list[str]:
    """Return what another database user has to grant or do for the user of `connection`, one line each.

    `lacking` comes from `missing_objects`: creating those takes privileges too. SQLite has only those of
    its file.
    """
    if connection.dialect.name != "postgresql":
        return []
    user, schema, creates = connection.execute(
        sa.select(
            sa.func.current_user(),
            sa.func.current_schema(),
            sa.func.has_schema_privilege(sa.func.current_schema(), "CREATE"),
        )
    ).one()
    if schema is None:
        return [f"{user} may use no schema of the search path: GRANT USAGE, CREATE ON SCHEMA … TO {user}"]
    lines = []
    if any(what.startswith("table ") for what in lacking) and not creates:
        lines.append(
            f"GRANT CREATE ON SCHEMA {schema} TO {user}, or let the owner run the output of "
            "`docker_torrents init-db --print`"
        )
    for table in tables.metadata.sorted_tables:
        if f"table {table.name}" in lacking:
            continue
        name = connection.dialect.identifier_preparer.format_table(table)
        refused = [
            right
            for right in _RIGHTS
            if not connection.scalars(sa.select(sa.func.has_table_privilege(name, right))).one()
        ]
        if refused:
            lines.append(f"GRANT {', '.join(refused)} ON {name} TO {user}")
        if any(f"index {index.name}" in lacking for index in table.indexes) and not _owns(connection, name):
            lines.append(
                f"the owner of {name} must create its indexes: `docker_torrents init-db --print` prints them"
            )
    return lines


def _owns(connection: sa.Connection, name: str) -> bool:
    owner = sa.text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(:name)")
    return bool(connection.execute(owner, {"name": name}).scalar())
