"""What the service's user may do in the database, before it tries."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from sql.tables import Tables

_RIGHTS = ("SELECT", "INSERT", "UPDATE", "DELETE")


def lacking_rights(connection: sa.Connection, tables: Tables, lacking: Sequence[str]) -> list[str]:
    """What has to be granted or done by somebody else, in a line each, for the user of `connection`.

    `lacking` is what sql/schema.py's `missing` gives: where something is, it takes a right to make it. SQLite
    has no rights but those of its file.
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
        return [
            f"no schema of the search path is there for {user}: GRANT USAGE, CREATE ON SCHEMA … TO {user}"
        ]
    lines = []
    if any(what.startswith("table ") for what in lacking) and not creates:
        lines.append(
            f"GRANT CREATE ON SCHEMA {schema} TO {user}, or have somebody else run what "
            "`docker_torrents init-db --print` gives"
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
                f"have the owner of {name} make its indexes: `docker_torrents init-db --print` gives them"
            )
    return lines


def _owns(connection: sa.Connection, name: str) -> bool:
    owner = sa.text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(:name)")
    return bool(connection.execute(owner, {"name": name}).scalar())
