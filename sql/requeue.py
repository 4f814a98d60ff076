"""Put brewed layers back into the queue when their metainfo is lost.

A layer whose id came from an older service cannot get that id again. The queue row distinguishes them: it
names the brewer of every layer that was brewed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from core.digest import Digest
from sql.bulk_values import bulk_values, digest_values, parse_stored
from sql.claims import write_queue
from sql.layers import mapping_page
from sql.tables import AT_ONCE, Priority, Tables


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
        if row.here and (digest := parse_stored(row.digest))
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
