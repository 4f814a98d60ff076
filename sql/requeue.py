"""Queue layers and manifests again, or drop them: failed ones, and brewed layers whose metainfo is lost.

A layer whose id came from an older service cannot get that id again. The queue row distinguishes them: it
names the brewer of every layer that was brewed here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from core.digest import Digest
from sql.bulk_values import bulk_values, digest_values
from sql.claims import write_queue
from sql.failures import storable
from sql.layers import mapping_page
from sql.tables import AT_ONCE, Priority, Tables, is_set_aside


def retry_failed_layers(
    connection: sa.Connection,
    tables: Tables,
    *,
    reason_like: str | None = None,
    digest: Digest | None = None,
) -> int:
    """Queue layers again that were set aside or wait for their next attempt. Return their number.

    Their attempts start from zero; the reason stays recorded. All of them, or those whose reason contains
    `reason_like` (case-insensitive, … matches anything), or the one `digest`.
    """
    queue = tables.queue
    # A locked layer was due, so it is neither.
    failed = sa.or_(is_set_aside(queue), queue.c.next_try > AT_ONCE)
    return _retry(connection, queue, AT_ONCE, failed, *_selected(connection, queue, reason_like, digest))


def drop_layers(
    connection: sa.Connection,
    tables: Tables,
    *,
    reason_like: str | None = None,
    digest: Digest | None = None,
) -> int:
    """Drop layers that were set aside, selected as in `retry_failed_layers`. Return their number.

    A `digest` may also be that of a waiting layer. Brewed and locked layers are never dropped. A request or
    push queues a dropped layer again.
    """
    mapping, queue = tables.mapping, tables.queue
    droppable = queue.c.next_try.is_not(None) if digest is not None else sa.false()
    digests = connection.scalars(
        sa.select(mapping.c.digest)
        .join_from(queue, mapping, mapping.c.digest == queue.c.digest)
        .where(
            sa.or_(is_set_aside(queue), droppable),
            mapping.c.brewed.is_(None),
            mapping.c.brew_lock.is_(None),
            *_selected(connection, queue, reason_like, digest),
        )
        # Locked layers are not dropped.
        .with_for_update(skip_locked=True)
    ).all()
    # Their repositories' manifests count as unread again, or no scan would find these layers.
    seen, scope = tables.seen, tables.scope
    theirs = sa.select(scope.c.scope).where(scope.c.digest.in_(digest_values(connection, digests)))
    connection.execute(sa.delete(seen).where(seen.c.scope.in_(theirs)))
    for table in (mapping, queue, scope):
        connection.execute(sa.delete(table).where(table.c.digest.in_(digest_values(connection, digests))))
    return len(digests)


def retry_failed_manifests(
    connection: sa.Connection,
    tables: Tables,
    *,
    reason_like: str | None = None,
    digest: Digest | None = None,
    now: int,
) -> int:
    """Retry manifests that were set aside or wait for their next attempt. Return their number.

    Selected as in `retry_failed_layers`; the reason stays recorded. A manifest counts once for each
    repository.
    """
    manifest = tables.manifest
    failed = sa.or_(is_set_aside(manifest), sa.and_(manifest.c.attempts > 0, manifest.c.next_try > now))
    return _retry(connection, manifest, now, failed, *_selected(connection, manifest, reason_like, digest))


def drop_manifests(
    connection: sa.Connection,
    tables: Tables,
    *,
    reason_like: str | None = None,
    digest: Digest | None = None,
) -> int:
    """Drop manifests that were set aside, selected as in `retry_failed_layers`. Return their number.

    A `digest` may also be that of a waiting manifest. A push queues a dropped manifest again.
    """
    manifest = tables.manifest
    droppable = is_set_aside(manifest) if digest is None else sa.true()
    chosen = _locked_rows(manifest, droppable, *_selected(connection, manifest, reason_like, digest))
    dropped = sa.delete(manifest).where(chosen).returning(manifest.c.digest)
    return len(connection.scalars(dropped).all())


def _retry(
    connection: sa.Connection,
    table: sa.Table,
    next_try: int | sa.ColumnElement[int],
    *where: sa.ColumnElement[bool],
) -> int:
    """Let the rows that match `where` start over at `next_try`. Return their number."""
    retried = sa.update(table).where(_locked_rows(table, *where)).values(next_try=next_try, attempts=0)
    return len(connection.scalars(retried.returning(table.c.digest)).all())


def _locked_rows(table: sa.Table, *where: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Select the rows that match `where` by key; all are locked first, in the order of keys."""
    key = tuple(table.primary_key)
    chosen = sa.select(*key).where(*where).order_by(*key).with_for_update().cte("chosen")
    return sa.tuple_(*key).in_(sa.select(*chosen.c))


def _selected(
    connection: sa.Connection, table: sa.Table, reason_like: str | None, digest: Digest | None
) -> list[sa.ColumnElement[bool]]:
    """Return the conditions for a reason that contains `reason_like`, and for this digest."""
    selected: list[sa.ColumnElement[bool]] = []
    if reason_like is not None:
        # `queue status` shows reasons with … for details that differ between layers.
        shown = (storable(connection, part) for part in reason_like.split("…"))
        parts = (re.sub(r"([/%_])", r"/\1", part) for part in shown)
        selected.append(table.c.reason.ilike(f"%{'%'.join(parts)}%", escape="/"))
    if digest is not None:
        selected.append(table.c.digest == str(digest))
    return selected


@dataclass(frozen=True, slots=True)
class BrewedLayer:
    """A layer that was brewed at this time (Unix seconds): `here`, or by an older service."""

    digest: Digest
    brewed: int
    here: bool


def find_brewed_layer(connection: sa.Connection, tables: Tables, digest: Digest) -> BrewedLayer | None:
    """Return the layer, or None unless it is brewed and has an id."""
    mapping, queue = tables.mapping, tables.queue
    row = connection.execute(
        sa.select(mapping.c.digest, mapping.c.brewed, _is_ours(queue).label("here"))
        .outerjoin(queue, queue.c.digest == mapping.c.digest)
        .where(mapping.c.digest == str(digest), _has_id(mapping))
    ).one_or_none()
    return BrewedLayer(digest, row.brewed, bool(row.here)) if row else None


def list_brewed_here(
    connection: sa.Connection, tables: Tables, *, after: str, limit: int
) -> tuple[list[BrewedLayer], str | None]:
    """Return those of the next `limit` layers, by digest, that were brewed here, and the last digest of all.

    The last digest is None at the end.
    """
    page, queue = mapping_page(tables, after=after, limit=limit), tables.queue
    rows = connection.execute(
        sa.select(page.c.digest, page.c.brewed, sa.and_(_has_id(page), _is_ours(queue)).label("here"))
        .outerjoin(queue, queue.c.digest == page.c.digest)
        .order_by(page.c.digest)
    ).all()
    found = [
        BrewedLayer(digest, row.brewed, True)
        for row in rows
        if row.here and (digest := Digest.parse_or_none(row.digest))
    ]
    return found, rows[-1].digest if rows else None


def requeue_brewed(
    connection: sa.Connection,
    tables: Tables,
    layers: Sequence[BrewedLayer],
    *,
    priority: Priority,
    now: int,
) -> int:
    """Queue these layers as if they had never been brewed. Return their number.

    Their ids are removed until they are brewed again, as their torrents are missing. Layers that were
    brewed again or forgotten since, or were not brewed here, are unchanged.
    """
    mapping = tables.mapping
    ours = ((str(layer.digest), layer.brewed) for layer in layers if layer.here)
    requested = bulk_values(connection, "requested", {"digest": sa.Text(), "brewed": sa.BigInteger()}, ours)
    # Locked in the order of digests, the mapping before the queue, as in every transaction.
    digests = connection.scalars(
        sa.select(mapping.c.digest)
        .join(
            requested, sa.and_(requested.c.digest == mapping.c.digest, requested.c.brewed == mapping.c.brewed)
        )
        .order_by(mapping.c.digest)
        .with_for_update(of=mapping)
    ).all()
    if not digests:
        return 0
    these = mapping.c.digest.in_(digest_values(connection, digests))
    connection.execute(sa.update(mapping).where(these).values(brewed=None, rbtorrent_id=None))
    write_queue(connection, tables, digests, next_try=AT_ONCE, priority=int(priority), added=now, attempts=0)
    return len(digests)


def _has_id(mapping: sa.FromClause) -> sa.ColumnElement[bool]:
    return sa.and_(mapping.c.brewed.is_not(None), mapping.c.rbtorrent_id.is_not(None))


def _is_ours(queue: sa.Table) -> sa.ColumnElement[bool]:
    """Return whether a brewed layer with this queue row was brewed here."""
    return sa.and_(queue.c.brewer.is_not(None), queue.c.next_try.is_(None), queue.c.reason.is_(None))
