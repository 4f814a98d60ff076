"""Retry or drop layers and manifests that failed."""

from __future__ import annotations

import re

import sqlalchemy as sa

from core.digest import Digest
from sql.bulk_values import digest_values
from sql.tables import AT_ONCE, Tables, is_set_aside


def retry_failed_layers(
    connection: sa.Connection,
    tables: Tables,
    *,
    reason_like: str | None = None,
    digest: Digest | None = None,
) -> int:
    """Queue layers anew that were set aside, or that wait for their next try, with all their tries before
    them; the reason stays to be read.

    All of them, or those whose reason contains `reason_like` in whatever case, with … for anything, or the
    one `digest`. Returns how many there were.
    """
    queue = tables.queue
    chosen = (
        sa.select(queue.c.digest)
        # One that a brewer holds was due: it is neither.
        .where(sa.or_(is_set_aside(queue), queue.c.next_try > AT_ONCE), *_like(queue, reason_like, digest))
        .order_by(queue.c.digest)
        .with_for_update()
        .cte("chosen")
    )
    anew = (
        sa.update(queue)
        .where(queue.c.digest.in_(sa.select(chosen.c.digest)))
        .values(next_try=AT_ONCE, attempts=0)
        .returning(queue.c.digest)
    )
    return len(connection.scalars(anew).all())


def drop_layers(
    connection: sa.Connection,
    tables: Tables,
    *,
    reason_like: str | None = None,
    digest: Digest | None = None,
) -> int:
    """Forget layers that were set aside, by reason or digest as above; being asked for queues one again.

    A `digest` may also be of a layer that waits. What is brewed, or held by a brewer, is never dropped.
    Returns how many were.
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
            *_like(queue, reason_like, digest),
        )
        # Locked layers are not dropped.
        .with_for_update(skip_locked=True)
    ).all()
    # The manifests of their repositories count as unread again, or no scan would find these layers.
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
    """Retry manifests that were set aside or wait for their next try, chosen as `retry_failed_layers` does.

    The reason stays to be read. One that several repositories have counts for each. Returns how many.
    """
    manifest = tables.manifest
    failed = sa.or_(is_set_aside(manifest), sa.and_(manifest.c.attempts > 0, manifest.c.next_try > now))
    chosen = _these(manifest, failed, *_like(manifest, reason_like, digest))
    anew = sa.update(manifest).where(chosen).values(next_try=now, attempts=0)
    return len(connection.scalars(anew.returning(manifest.c.digest)).all())


def drop_manifests(
    connection: sa.Connection,
    tables: Tables,
    *,
    reason_like: str | None = None,
    digest: Digest | None = None,
) -> int:
    """Forget manifests that were set aside, chosen as above; a push queues one again.

    A `digest` may also be of one that waits. Returns how many were forgotten.
    """
    manifest = tables.manifest
    droppable = is_set_aside(manifest) if digest is None else sa.true()
    chosen = _these(manifest, droppable, *_like(manifest, reason_like, digest))
    dropped = sa.delete(manifest).where(chosen).returning(manifest.c.digest)
    return len(connection.scalars(dropped).all())


def _these(manifest: sa.Table, *where: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Whether a row is one of those `where`, all of which are locked first, in the order of everybody."""
    key = (manifest.c.scope, manifest.c.digest)
    these = sa.select(*key).where(*where).order_by(*key).with_for_update().cte("these")
    return sa.tuple_(*key).in_(sa.select(*these.c))


def _like(table: sa.Table, reason_like: str | None, digest: Digest | None) -> list[sa.ColumnElement[bool]]:
    like: list[sa.ColumnElement[bool]] = []
    if reason_like is not None:
        # As `queue status` shows reasons, with … for what differs between layers.
        parts = (re.sub(r"([/%_])", r"/\1", part) for part in reason_like.split("…"))
        like.append(table.c.reason.ilike(f"%{'%'.join(parts)}%", escape="/"))
    if digest is not None:
        like.append(table.c.digest == str(digest))
    return like
