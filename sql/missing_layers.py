"""Layers that the registry may no longer have: checked twice, some time apart, and then removed.

Removing a layer requires its row in this table. Queueing the layer deletes that row (sql/enqueue.py) and
waits for a removal in progress, so a push between the last check and the removal is never lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from core.digest import Digest
from sql.bulk_values import digest_values, insert
from sql.layers import mapping_page
from sql.tables import Tables, is_set_aside


@dataclass(frozen=True, slots=True)
class Suspect:
    """A layer that may be missing: first missed at this time, None if it was only reported."""

    digest: Digest
    missed: int | None


def suspect_layers(connection: sa.Connection, tables: Tables, digests: Iterable[Digest], *, now: int) -> int:
    """Schedule checks of these layers before all others. Return how many are known and not suspects yet.

    Nothing is removed: a layer that was deleted from one repository may be in others.
    """
    mapping, missing = tables.mapping, tables.missing
    known = sa.select(mapping.c.digest, sa.null(), sa.literal(now, sa.BigInteger)).where(
        mapping.c.digest.in_(digest_values(connection, digests))
    )
    hint = insert(connection, missing).from_select(
        ["digest", "missed", "due"], known.order_by(mapping.c.digest)
    )
    return connection.execute(hint.on_conflict_do_nothing()).rowcount


def due_suspects(connection: sa.Connection, tables: Tables, *, now: int, limit: int) -> list[Suspect]:
    """Return up to `limit` suspects that are due for a check, the longest due first."""
    missing = tables.missing
    rows = connection.execute(
        sa.select(missing.c.digest, missing.c.missed)
        .where(missing.c.due <= now)
        .order_by(missing.c.due, missing.c.digest)
        .limit(limit)
    )
    return [Suspect(digest, row.missed) for row in rows if (digest := Digest.parse_or_none(row.digest))]


def filter_suspects(connection: sa.Connection, tables: Tables, digests: Iterable[Digest]) -> set[Digest]:
    """Return those layers that are suspects."""
    wanted = {str(digest): digest for digest in digests}
    digest = tables.missing.c.digest
    found = connection.scalars(sa.select(digest).where(digest.in_(digest_values(connection, wanted))))
    return {wanted[name] for name in found}


def list_forgettable_layers(
    connection: sa.Connection, tables: Tables, *, after: str, limit: int
) -> tuple[list[Digest], str | None]:
    """Return those of the next `limit` layers, by digest, that may be forgotten, and the last digest of all.

    Those are layers that are brewed or set aside, and not locked. The last digest is None at the end.
    """
    page, queue = mapping_page(tables, after=after, limit=limit), tables.queue
    rows = connection.execute(
        sa.select(page.c.digest, _is_forgettable(page, queue).label("forgettable"))
        .outerjoin(queue, queue.c.digest == page.c.digest)
        .order_by(page.c.digest)
    ).all()
    found = [digest for row in rows if row.forgettable and (digest := Digest.parse_or_none(row.digest))]
    return found, rows[-1].digest if rows else None


def record_misses(
    connection: sa.Connection, tables: Tables, digests: Sequence[Digest], *, now: int, due: int
) -> None:
    """Record that the layers were not found at `now`, and are to be checked again at `due`.

    For one that was missed before, the first time stays.
    """
    missing, mapping = tables.missing, tables.mapping
    # Except those that were dropped since.
    known = sa.select(mapping.c.digest, sa.literal(now, sa.BigInteger), sa.literal(due, sa.BigInteger)).where(
        mapping.c.digest.in_(digest_values(connection, digests))
    )
    miss = insert(connection, missing).from_select(
        ["digest", "missed", "due"], known.order_by(mapping.c.digest)
    )
    connection.execute(
        miss.on_conflict_do_update(
            index_elements=["digest"],
            set_={"missed": miss.excluded.missed, "due": miss.excluded.due},
            where=missing.c.missed.is_(None),
        )
    )


def postpone_suspects(
    connection: sa.Connection, tables: Tables, digests: Sequence[Digest], *, due: int
) -> None:
    """Schedule another check at `due`, as there was no answer."""
    missing = tables.missing
    these = missing.c.digest.in_(_locked(connection, tables, digests))
    connection.execute(sa.update(missing).where(these).values(due=due))


def clear_suspects(connection: sa.Connection, tables: Tables, digests: Sequence[Digest | str]) -> int:
    """Record that these layers exist, or were pushed again. Return how many were suspects."""
    missing = tables.missing
    these = missing.c.digest.in_(_locked(connection, tables, digests))
    return connection.execute(sa.delete(missing).where(these)).rowcount


def forget_layer(connection: sa.Connection, tables: Tables, suspect: Suspect) -> bool:
    """Forget a layer, the repositories that held it, and that their manifests were read.

    A scan then reads those manifests again and finds the layer if it is pushed again. Return False,
    without a relevant change, if it was queued or cleared since, brewed after it was missed, or is being
    brewed.
    """
    digest = str(suspect.digest)
    mapping, queue, scope, seen, missing = (
        tables.mapping,
        tables.queue,
        tables.scope,
        tables.seen,
        tables.missing,
    )
    # In the same order as queueing and claiming, to avoid deadlocks.
    for table in (mapping, queue):
        connection.execute(sa.select(table.c.digest).where(table.c.digest == digest).with_for_update())
    # Queueing the layer waits for this row.
    taken = sa.delete(missing).where(missing.c.digest == digest, missing.c.missed == suspect.missed)
    if connection.execute(taken).rowcount == 0:
        return False
    before = sa.func.coalesce(mapping.c.brewed, 0) <= suspect.missed
    forgettable = sa.select(mapping.c.digest).outerjoin(queue, queue.c.digest == mapping.c.digest)
    forgotten = sa.delete(mapping).where(
        mapping.c.digest == digest,
        mapping.c.brew_lock.is_(None),
        before,
        mapping.c.digest.in_(
            forgettable.where(mapping.c.digest == digest, _is_forgettable(mapping, queue)).correlate(None)
        ),
    )
    if connection.execute(forgotten).rowcount == 0:
        return False
    scopes = connection.scalars(
        sa.delete(scope).where(scope.c.digest == digest).returning(scope.c.scope)
    ).all()
    connection.execute(sa.delete(queue).where(queue.c.digest == digest))
    for name in sorted(scopes):
        connection.execute(sa.delete(seen).where(seen.c.scope == name))
    return True


def _is_forgettable(mapping: sa.FromClause, queue: sa.Table) -> sa.ColumnElement[bool]:
    """Return whether a row of the mapping, joined with the queue, is brewed or set aside, and not locked."""
    return sa.and_(mapping.c.brew_lock.is_(None), sa.or_(mapping.c.brewed.is_not(None), is_set_aside(queue)))


def _locked(
    connection: sa.Connection, tables: Tables, digests: Sequence[Digest | str]
) -> sa.Select[tuple[str]]:
    """Select those of the digests that are suspects, locked in the order of digests."""
    missing = tables.missing
    return (
        sa.select(missing.c.digest)
        .where(missing.c.digest.in_(digest_values(connection, digests)))
        .order_by(missing.c.digest)
        .with_for_update()
    )
