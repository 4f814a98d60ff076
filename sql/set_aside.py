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
    """Queue layers again that were set aside or wait for their next attempt. Return their number.

    Their attempts start from zero; the reason stays recorded. All of them, or those whose reason contains
    `reason_like` (case-insensitive, … matches anything), or the one `digest`.
    """
    queue = tables.queue
    chosen = (
        sa.select(queue.c.digest)
        # A locked layer was due, so it is neither.
        .where(sa.or_(is_set_aside(queue), queue.c.next_try > AT_ONCE), *_like(queue, reason_like, digest))
        .order_by(queue.c.digest)
        .with_for_update()
        .cte("chosen")
    )
    retried = (
        sa.update(queue)
        .where(queue.c.digest.in_(sa.select(chosen.c.digest)))
        .values(next_try=AT_ONCE, attempts=0)
        .returning(queue.c.digest)
    )
    return len(connection.scalars(retried).all())


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
            *_like(queue, reason_like, digest),
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
    chosen = _these(manifest, failed, *_like(manifest, reason_like, digest))
    retried = sa.update(manifest).where(chosen).values(next_try=now, attempts=0)
    return len(connection.scalars(retried.returning(manifest.c.digest)).all())


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
    chosen = _these(manifest, droppable, *_like(manifest, reason_like, digest))
    dropped = sa.delete(manifest).where(chosen).returning(manifest.c.digest)
    return len(connection.scalars(dropped).all())


def _these(manifest: sa.Table, *where: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Select the rows that match `where` by key; all are locked first, in the order of keys."""
    key = (manifest.c.scope, manifest.c.digest)
    these = sa.select(*key).where(*where).order_by(*key).with_for_update().cte("these")
    return sa.tuple_(*key).in_(sa.select(*these.c))


def _like(table: sa.Table, reason_like: str | None, digest: Digest | None) -> list[sa.ColumnElement[bool]]:
    like: list[sa.ColumnElement[bool]] = []
    if reason_like is not None:
        # `queue status` shows reasons with … for details that differ between layers.
        parts = (re.sub(r"([/%_])", r"/\1", part) for part in reason_like.split("…"))
        like.append(table.c.reason.ilike(f"%{'%'.join(parts)}%", escape="/"))
    if digest is not None:
        like.append(table.c.digest == str(digest))
    return like
