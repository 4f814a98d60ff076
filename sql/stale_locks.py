"""Release the locks of brewers that died, and correct times written by a clock that was ahead."""

from __future__ import annotations

import sqlalchemy as sa

from sql.claims import write_queue
from sql.failures import record_failures
from sql.tables import AT_ONCE, Tables
from sql.transaction import time_of_statement

_BATCH = 1_000


def release_stale_locks(
    connection: sa.Connection, tables: Tables, *, older_than: int, max_attempts: int, now: int
) -> int:
    """Release locks older than the time `older_than`. Return their number.

    A layer that a brewer had claimed counts a failed attempt, and is set aside after `max_attempts`: it may
    kill brewers, for example because of its size. The other layers of its chunk count an attempt too, so
    `queue retry` may be needed. A lock that was set by hand is only released. Rows that are being renewed or
    finished at the same time are skipped.
    """
    queue = tables.queue
    claimed = queue.c.claimed.is_not(None)
    attempts = queue.c.attempts + sa.case((claimed, 1), else_=0)
    given_up = sa.and_(claimed, attempts >= max_attempts)
    vanished = sa.func.coalesce("brewer " + queue.c.brewer + " vanished", "its brewer vanished")
    released = 0
    while digests := _unlock(connection, tables, tables.mapping.c.brew_lock < older_than):
        released += len(digests)
        write_queue(
            connection,
            tables,
            digests,
            attempts=attempts,
            reason=sa.case((claimed, vanished), else_=queue.c.reason),
            next_try=sa.case((given_up, sa.null()), else_=queue.c.next_try),
            claimed=None,
        )
        record_failures(connection, tables, digests, now=now)
    return released


def release_future_locks(connection: sa.Connection, tables: Tables, *, ahead: int) -> int:
    """Release locks more than `ahead` seconds in the future, attempts unchanged. Return their number.

    The database's clock was set back, or another database took over; they would become stale only after their
    time. The time is read in the statement: compared with one read before a connection hung, new locks would
    seem to be in the future.
    """
    released = 0
    now = time_of_statement(connection.dialect.name)
    while digests := _unlock(connection, tables, tables.mapping.c.brew_lock > now + ahead):
        released += len(digests)
        write_queue(connection, tables, digests, claimed=None)
    return released


def bring_forward(connection: sa.Connection, tables: Tables, *, latest: int, now: int) -> int:
    """Make layers and manifests whose next attempt is after `latest` due at once. Return their number.

    These times were written by a clock that was ahead.
    """
    queue, manifest = tables.queue, tables.manifest
    far = (
        sa.select(queue.c.digest)
        .where(queue.c.next_try > AT_ONCE, queue.c.next_try > latest)
        .order_by(queue.c.digest)
        .with_for_update(skip_locked=True)
        .cte("far")
    )
    layers = (
        sa.update(queue)
        .where(queue.c.digest.in_(sa.select(far.c.digest)))
        .values(next_try=AT_ONCE)
        .returning(queue.c.digest)
    )
    manifests = sa.update(manifest).where(manifest.c.next_try > latest).values(next_try=now)
    return len(connection.scalars(layers).all()) + connection.execute(manifests).rowcount


def _unlock(connection: sa.Connection, tables: Tables, which: sa.ColumnElement[bool]) -> list[str]:
    """Unlock up to 1,000 rows that are not being changed. Return their digests."""
    mapping = tables.mapping
    stale = (
        sa.select(mapping.c.digest)
        .where(which, mapping.c.brewed.is_(None))
        .order_by(mapping.c.brew_lock)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
        .cte("stale")
    )
    return list(
        connection.scalars(
            sa.update(mapping)
            .where(mapping.c.digest.in_(sa.select(stale.c.digest)))
            .values(brew_lock=None)
            .returning(mapping.c.digest)
        )
    )
