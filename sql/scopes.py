"""Which repositories hold a layer, found out by looking rather than from a manifest."""

from __future__ import annotations

from collections.abc import Iterable

import sqlalchemy as sa

from sql.given import given, given_digests
from sql.tables import Tables
from sql.upsert import insert


def remember_scopes(connection: sa.Connection, tables: Tables, pairs: Iterable[tuple[str, str]]) -> int:
    """Remember of each (digest, scope) that the repository holds the layer, if it is one that is known here.

    Of other digests, such as those of images' configs, nothing is kept. Returns how many were new.
    """
    mapping, scope = tables.mapping, tables.scope
    held = given(connection, "held", {"digest": sa.Text(), "scope": sa.Text()}, sorted(set(pairs)))
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
    connection: sa.Connection, tables: Tables, digests: Iterable[str]
) -> dict[str, tuple[str, ...]]:
    """The repositories known to hold each of the layers, by name; layers without any are left out."""
    scope = tables.scope
    rows = connection.execute(
        sa.select(scope.c.digest, scope.c.scope)
        .where(scope.c.digest.in_(given_digests(connection, digests)))
        .order_by(scope.c.digest, scope.c.scope)
    ).all()
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        found[row.digest] = (*found.get(row.digest, ()), row.scope)
    return found
