"""Which scopes have the rbtorrent role: their pushes are brewed, their tags are scanned."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from sql.tables import Tables
from sql.upsert import insert


@dataclass(frozen=True, slots=True)
class Role:
    """A scope, or a glob over scopes, and since when (Unix seconds) it has the role."""

    pattern: str
    granted: int


def grant_role(connection: sa.Connection, tables: Tables, pattern: str, *, now: int) -> bool:
    """Give the role to a scope or a glob. False if it has it already."""
    granted = insert(connection, tables.role).values(pattern=pattern, granted=now).on_conflict_do_nothing()
    return connection.execute(granted).rowcount == 1


def revoke_role(connection: sa.Connection, tables: Tables, pattern: str) -> bool:
    """Take the role from exactly what it was given to. False if that does not have it."""
    role = tables.role
    return connection.execute(sa.delete(role).where(role.c.pattern == pattern)).rowcount == 1


def list_roles(connection: sa.Connection, tables: Tables) -> list[Role]:
    """All that have the role, by name."""
    role = tables.role
    rows = connection.execute(sa.select(role.c.pattern, role.c.granted))
    # Sorted here: the database's order depends on its locale.
    return sorted((Role(row.pattern, row.granted) for row in rows), key=lambda role: role.pattern)
