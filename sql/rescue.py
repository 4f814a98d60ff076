"""Layers whose brewer is gone: their locks are released."""

from __future__ import annotations

import sqlalchemy as sa

from sql.queue import write_queue
from sql.tables import Tables

_BATCH = 1_000


def release_stale_locks(
    connection: sa.Connection, tables: Tables, *, older_than: int, max_attempts: int
) -> int:
    """Free the layers whose lock is older than the time `older_than`. Returns how many were.

    Of a layer that a brewer had claimed this counts as a failed try, and after `max_attempts` of those the
    layer is set aside: it may be what kills brewers, by its size for one. Its chunk's other layers count
    one too, so that `queue retry` may be called for. A lock that somebody set by hand is only taken off.
    Rows that are being renewed or finished at this moment are let be.
    """
    mapping, queue = tables.mapping, tables.queue
    released = 0
    while True:
        stale = (
            sa.select(mapping.c.digest)
            .where(mapping.c.brew_lock < older_than, mapping.c.brewed.is_(None))
            .order_by(mapping.c.brew_lock)
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
            .cte("stale")
        )
        digests = connection.scalars(
            sa.update(mapping)
            .where(mapping.c.digest.in_(sa.select(stale.c.digest)))
            .values(brew_lock=None)
            .returning(mapping.c.digest)
        ).all()
        released += len(digests)
        claimed = queue.c.claimed.is_not(None)
        attempts = queue.c.attempts + sa.case((claimed, 1), else_=0)
        given_up = sa.and_(claimed, attempts >= max_attempts)
        write_queue(
            connection,
            tables,
            digests,
            attempts=attempts,
            reason=sa.case(
                (claimed, sa.func.coalesce("brewer " + queue.c.brewer + " vanished", "its brewer vanished")),
                else_=queue.c.reason,
            ),
            next_try=sa.case((given_up, sa.null()), else_=queue.c.next_try),
            claimed=None,
        )
        if len(digests) < _BATCH:
            return released
