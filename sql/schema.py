"""The schema: what of it is missing, making that, and the DDL for those who rather do it by hand."""

from __future__ import annotations

import zlib

import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from sql.tables import Tables


def missing(connection: sa.Connection, tables: Tables) -> list[str]:
    """What the database lacks, as `table x`, `column x.y`, `index z`; an empty list if it is complete."""
    wanted = tables.metadata.sorted_tables
    inspector = sa.inspect(connection)
    # All tables at once: on PostgreSQL that is one query each, not one for each table.
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


def create_missing(connection: sa.Connection, tables: Tables) -> list[str]:
    """Create the tables and indexes that the database lacks, in the transaction of `connection`.

    Returns what was created, named as `missing` does. What is there is never touched, so a missing column
    stays missing, and its table's indexes with it. Several processes may do this at once, and one that
    finds nothing missing needs no right to create. On PostgreSQL, writers to a table wait while it gets a
    new index.
    """
    if connection.dialect.name == "postgresql":
        # Taken before looking, and given back by the transaction's end: PgBouncer may sit between.
        key = zlib.crc32(f"create {tables.mapping.name}".encode())
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
    lacking = set(missing(connection, tables))
    created = []
    for table in tables.metadata.sorted_tables:
        if f"table {table.name}" in lacking:
            connection.execute(CreateTable(table))
            created.append(f"table {table.name}")
        # An index may be on a column that is lacking, or on a condition on one.
        in_part = any(what.startswith(f"column {table.name}.") for what in lacking)
        for index in _indexes(table):
            if f"index {index.name}" in lacking and not in_part:
                connection.execute(CreateIndex(index))
                created.append(f"index {index.name}")
    return created


def ddl(tables: Tables, dialect: sa.Dialect) -> str:
    """The whole schema in the database's own SQL, for psql or sqlite3. Run again, it changes nothing."""
    statements: list[str] = []
    for table in tables.metadata.sorted_tables:
        create = str(CreateTable(table, if_not_exists=True).compile(dialect=dialect))
        statements.append("\n".join(line.rstrip() for line in create.strip().splitlines() if line.strip()))
        for index in _indexes(table):
            statements.append(str(CreateIndex(index, if_not_exists=True).compile(dialect=dialect)).strip())
    return "".join(f"{statement};\n" for statement in statements)


def _indexes(table: sa.Table) -> list[sa.Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))
