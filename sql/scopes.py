"""Scopes: which repositories hold a layer, which are busy, and which have the rbtorrent role."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby

import sqlalchemy as sa

from core.digest import Digest
from sql.bulk_values import bulk_values, digest_values, insert
from sql.tables import Tables

MAX_SCOPES = 100
"""Repositories that operators see of one layer: a base layer may be in many thousands."""

NEWEST = 1_000
"""The newest layers, by which busy repositories are found."""

_MAX_PAIRS = 20_000


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


def first_scopes(
    connection: sa.Connection, tables: Tables, digests: Iterable[str], *, limit: int = MAX_SCOPES
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
        sa.select(ranked.c.digest, ranked.c.scope).where(ranked.c.number <= limit).order_by(*ranked.c)
    ):
        found.setdefault(row.digest, []).append(row.scope)
    return found


@dataclass(frozen=True, slots=True)
class BusyRepository:
    """A repository that many of the NEWEST layers belong to: how many, and how many of these are brewed.

    `size` is in bytes, of the layers whose size is known.
    """

    scope: str
    layers: int
    brewed: int
    size: int


def list_busy_repositories(connection: sa.Connection, tables: Tables, *, limit: int) -> list[BusyRepository]:
    """Return the repositories that most of the NEWEST layers belong to.

    Requests are not counted in the database, so these represent them: new layers are pushed, requested or
    scanned ones.
    """
    mapping, queue, scope = tables.mapping, tables.queue, tables.scope
    newest = (
        sa.select(mapping.c.digest, mapping.c.brewed)
        .where(mapping.c.added.is_not(None))
        .order_by(mapping.c.added.desc())
        .limit(NEWEST)
        .subquery("newest")
    )
    # A base layer may belong to very many repositories.
    pairs = (
        sa.select(scope.c.scope, newest.c.digest, newest.c.brewed)
        .join_from(newest, scope, scope.c.digest == newest.c.digest)
        .limit(_MAX_PAIRS)
        .subquery("pairs")
    )
    brewed, size = pairs.c.brewed.is_not(None), sa.func.coalesce(queue.c.size, 0)
    layers = sa.func.count()
    rows = connection.execute(
        sa.select(
            pairs.c.scope,
            layers.label("layers"),
            layers.filter(brewed).label("brewed"),
            sa.func.sum(size).label("size"),
        )
        .join_from(pairs, queue, queue.c.digest == pairs.c.digest, isouter=True)
        .group_by(pairs.c.scope)
        .order_by(layers.desc(), pairs.c.scope)
        .limit(limit)
    )
    return [BusyRepository(row.scope, row.layers, row.brewed, int(row.size)) for row in rows]


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
