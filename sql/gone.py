"""Layers that the registry may have no longer: looked for twice, some time apart, and then forgotten.

A layer's row in this table is what its forgetting depends on. Whoever queues the layer takes the row away
(sql/intake.py), and waits for a forgetting that is under way; so a push that comes between the last look
and the forgetting is never lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from sql.given import given_digests
from sql.tables import Tables, is_set_aside
from sql.upsert import insert


@dataclass(frozen=True, slots=True)
class Suspect:
    """A layer that may be gone: first missed at this time; None if somebody only said so."""

    digest: str
    missed: int | None


def hint_gone(connection: sa.Connection, tables: Tables, digests: Iterable[str], *, now: int) -> int:
    """Have these layers looked for before all others. Returns how many are known here, and no suspects yet.

    Nothing is forgotten for it: who deletes a layer from one repository says nothing of the others.
    """
    mapping, gone = tables.mapping, tables.gone
    known = sa.select(mapping.c.digest, sa.null(), sa.literal(now, sa.BigInteger)).where(
        mapping.c.digest.in_(given_digests(connection, digests))
    )
    hint = insert(connection, gone).from_select(["digest", "missed", "due"], known.order_by(mapping.c.digest))
    return connection.execute(hint.on_conflict_do_nothing()).rowcount


def due_suspects(connection: sa.Connection, tables: Tables, *, now: int, limit: int) -> list[Suspect]:
    """Up to `limit` suspects whose time to be looked for has come, the longest due first."""
    gone = tables.gone
    rows = connection.execute(
        sa.select(gone.c.digest, gone.c.missed)
        .where(gone.c.due <= now)
        .order_by(gone.c.due, gone.c.digest)
        .limit(limit)
    )
    return [Suspect(row.digest, row.missed) for row in rows]


def known_suspects(connection: sa.Connection, tables: Tables, digests: Iterable[str]) -> set[str]:
    """Those of the layers that are suspects."""
    digest = tables.gone.c.digest
    return set(connection.scalars(sa.select(digest).where(digest.in_(given_digests(connection, digests)))))


def next_layers(
    connection: sa.Connection, tables: Tables, *, after: str, limit: int
) -> tuple[list[str], str | None]:
    """Those of the next `limit` layers in the order of digests that may be forgotten, and the last of all.

    That is the ones that are brewed or set aside, and nobody's work. The last is None at the end.
    """
    mapping, queue = tables.mapping, tables.queue
    # The page by itself: joined at once, the queue would be read from its beginning.
    page = (
        sa.select(mapping.c.digest, mapping.c.brewed, mapping.c.brew_lock)
        .where(mapping.c.digest > after)
        .order_by(mapping.c.digest)
        .limit(limit)
        .subquery("page")
    )
    rows = connection.execute(
        sa.select(page.c.digest, _is_forgettable(page, queue).label("forgettable"))
        .outerjoin(queue, queue.c.digest == page.c.digest)
        .order_by(page.c.digest)
    ).all()
    return [row.digest for row in rows if row.forgettable], rows[-1].digest if rows else None


def record_misses(
    connection: sa.Connection, tables: Tables, digests: Sequence[str], *, now: int, due: int
) -> None:
    """Note that the layers were not found at `now`, and are to be looked for again at `due`.

    Of one that was missed before, the first time stays.
    """
    gone, mapping = tables.gone, tables.mapping
    # Not those that were dropped meanwhile.
    known = sa.select(mapping.c.digest, sa.literal(now, sa.BigInteger), sa.literal(due, sa.BigInteger)).where(
        mapping.c.digest.in_(given_digests(connection, digests))
    )
    miss = insert(connection, gone).from_select(["digest", "missed", "due"], known.order_by(mapping.c.digest))
    connection.execute(
        miss.on_conflict_do_update(
            index_elements=["digest"],
            set_={"missed": miss.excluded.missed, "due": miss.excluded.due},
            where=gone.c.missed.is_(None),
        )
    )


def put_off_suspects(connection: sa.Connection, tables: Tables, digests: Sequence[str], *, due: int) -> None:
    """Look for these again at `due`: nobody could say whether they are there."""
    gone = tables.gone
    these = gone.c.digest.in_(_locked(connection, tables, digests))
    connection.execute(sa.update(gone).where(these).values(due=due))


def clear_suspects(connection: sa.Connection, tables: Tables, digests: Sequence[str]) -> int:
    """These layers are there, or are pushed anew. Returns how many had been suspects."""
    gone = tables.gone
    these = gone.c.digest.in_(_locked(connection, tables, digests))
    return connection.execute(sa.delete(gone).where(these)).rowcount


def forget_layer(connection: sa.Connection, tables: Tables, suspect: Suspect) -> bool:
    """Forget a layer, which repositories held it, and which of their manifests were read.

    The latter so that a scan reads them again, and finds the layer if it is pushed anew. False, with nothing
    written that matters, if somebody queued it or cleared it meanwhile, or it was brewed after it was
    missed, or is being brewed.
    """
    mapping, queue, scope, seen, gone = (
        tables.mapping,
        tables.queue,
        tables.scope,
        tables.seen,
        tables.gone,
    )
    # In the order in which those who queue or claim it lock its rows, or they and we wait for each other.
    for table in (mapping, queue):
        connection.execute(
            sa.select(table.c.digest).where(table.c.digest == suspect.digest).with_for_update()
        )
    # This row is what those who queue the layer wait for.
    taken = sa.delete(gone).where(gone.c.digest == suspect.digest, gone.c.missed == suspect.missed)
    if connection.execute(taken).rowcount == 0:
        return False
    before = sa.func.coalesce(mapping.c.brewed, 0) <= suspect.missed
    forgettable = sa.select(mapping.c.digest).outerjoin(queue, queue.c.digest == mapping.c.digest)
    forgotten = sa.delete(mapping).where(
        mapping.c.digest == suspect.digest,
        mapping.c.brew_lock.is_(None),
        before,
        mapping.c.digest.in_(
            forgettable.where(mapping.c.digest == suspect.digest, _is_forgettable(mapping, queue)).correlate(
                None
            )
        ),
    )
    if connection.execute(forgotten).rowcount == 0:
        return False
    scopes = connection.scalars(
        sa.delete(scope).where(scope.c.digest == suspect.digest).returning(scope.c.scope)
    ).all()
    connection.execute(sa.delete(queue).where(queue.c.digest == suspect.digest))
    for name in sorted(scopes):
        connection.execute(sa.delete(seen).where(seen.c.scope == name))
    return True


def _is_forgettable(mapping: sa.FromClause, queue: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a row of the mapping, joined with the queue, is brewed or set aside, and in nobody's hands."""
    return sa.and_(mapping.c.brew_lock.is_(None), sa.or_(mapping.c.brewed.is_not(None), is_set_aside(queue)))


def _locked(connection: sa.Connection, tables: Tables, digests: Sequence[str]) -> sa.Select[tuple[str]]:
    """Those of the digests that are suspects, locked in their order as everybody locks them."""
    gone = tables.gone
    return (
        sa.select(gone.c.digest)
        .where(gone.c.digest.in_(given_digests(connection, digests)))
        .order_by(gone.c.digest)
        .with_for_update()
    )
