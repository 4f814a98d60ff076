"""Scopes: which repositories hold a layer, and which have the rbtorrent role."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import sqlalchemy as sa

from core.digest import Digest
from sql.bulk_values import bulk_values, digest_values, insert
from sql.tables import Tables


def remember_scopes(connection: sa.Connection, tables: Tables, pairs: Iterable[tuple[Digest, str]]) -> int:
    """Record for each (digest, scope) that the repository holds the layer. Return how many were new.

    Unknown digests, such as those of configs, are ignored.
    """
    mapping, scope = tables.mapping, tables.scope
    held = bulk_values(
        connection,
        "held",
        {"digest": sa.Text(), "scope": sa.Text()},
        sorted({(str(digest), scope) for digest, scope in pairs}),
    )
    new = (
        sa.select(held.c.digest, held.c.scope)
        .join(mapping, mapping.c.digest == held.c.digest)
        .outerjoin(scope, sa.and_(scope.c.digest == held.c.digest, scope.c.scope == held.c.scope))
        .where(scope.c.digest.is_(None))
        .order_by(held.c.digest, held.c.scope)
    )
    remember = insert(connection, scope).from_select(["digest", "scope"], new)
    return connection.execute(remember.on_conflict_do_nothing()).rowcount


def find_scopes(
    connection: sa.Connection, tables: Tables, digests: Iterable[Digest]
) -> dict[Digest, tuple[str, ...]]:
    """Return the repositories known to hold each of the layers, by name. Layers without any are left out."""
    wanted = {str(digest): digest for digest in digests}
    scope = tables.scope
    rows = connection.execute(
        sa.select(scope.c.digest, scope.c.scope)
        .where(scope.c.digest.in_(digest_values(connection, wanted)))
        .order_by(scope.c.digest, scope.c.scope)
    )
    holding = groupby(rows, lambda row: row.digest)
    return {wanted[digest]: tuple(row.scope for row in group) for digest, group in holding}


MOST_SCOPES = 100
"""Repositories that operators see of one layer: a base layer may be in many thousands."""


def first_scopes(
    connection: sa.Connection, tables: Tables, digests: Iterable[str], *, most: int = MOST_SCOPES
) -> dict[str, list[str]]:
    """Return the first repositories of each of the layers, by name. Layers without any are left out."""
    scope = tables.scope
    number = sa.func.row_number().over(partition_by=scope.c.digest, order_by=scope.c.scope)
    ranked = (
        sa.select(scope.c.digest, scope.c.scope, number.label("number"))
        .where(scope.c.digest.in_(digest_values(connection, digests)))
        .subquery("ranked")
    )
    found: dict[str, list[str]] = {}
    for row in connection.execute(
        sa.select(ranked.c.digest, ranked.c.scope).where(ranked.c.number <= most).order_by(*ranked.c)
    ):
        found.setdefault(row.digest, []).append(row.scope)
    return found


@dataclass(frozen=True, slots=True)
class Role:
    """A scope or glob with the rbtorrent role, and since when (Unix seconds)."""

    pattern: str
    granted: int


def grant_role(connection: sa.Connection, tables: Tables, pattern: str, *, now: int) -> bool:
    """Grant the role to a scope or a glob. Return False if it had the role already."""
    granted = insert(connection, tables.role).values(pattern=pattern, granted=now).on_conflict_do_nothing()
    return connection.execute(granted).rowcount == 1


def revoke_role(connection: sa.Connection, tables: Tables, pattern: str) -> bool:
    """Revoke the role from exactly this pattern. Return False if it did not have it."""
    role = tables.role
    return connection.execute(sa.delete(role).where(role.c.pattern == pattern)).rowcount == 1


def list_roles(connection: sa.Connection, tables: Tables) -> list[Role]:
    """Return all scopes and globs with the role, by name."""
    role = tables.role
    rows = connection.execute(sa.select(role.c.pattern, role.c.granted))
    # Sorted here: the database's order depends on its locale.
    return sorted((Role(row.pattern, row.granted) for row in rows), key=lambda role: role.pattern)
