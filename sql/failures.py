"""Failures of layers and manifests: record, list, retry and drop them.

Without the table of recent failures, which older versions did not create, none are recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from core.digest import Digest
from core.errors import DatabaseNotReady
from sql.bulk_values import digest_values, insert
from sql.driver_errors import as_ours
from sql.postgresql import text_encoding
from sql.scopes import first_scopes
from sql.tables import AT_ONCE, Tables, is_set_aside

KEEP_SECONDS = 7 * 86_400
_LONGEST = 500
_FORGOTTEN_AT_ONCE = 100
_LOOKED_AT = 1_000
"""How many of the latest failures are read: some of these layers were brewed since."""


@dataclass(frozen=True, slots=True)
class RecentFailure:
    """A layer that failed at `failed` (Unix seconds) and was not brewed since.

    `next_try` is when it is retried, None if it was set aside. `scope` is one of its repositories.
    """

    digest: str
    failed: int
    attempts: int
    next_try: int | None
    reason: str
    size: int | None
    scope: str | None


def record_failures(
    connection: sa.Connection, tables: Tables, digests: Sequence[Digest | str], *, now: int
) -> None:
    """Record that these layers failed now, and delete some failures older than a week.

    The table stays small: each new failure removes up to a hundred old ones.
    """
    if not digests:
        return
    failure = tables.failure
    # In the order of digests, as every transaction locks them.
    names = sorted(str(digest) for digest in digests)
    writing = insert(connection, failure).values([{"digest": name, "failed": now} for name in names])
    old = (
        sa.select(failure.c.digest)
        .where(failure.c.failed < now - KEEP_SECONDS)
        .order_by(failure.c.failed)
        .limit(_FORGOTTEN_AT_ONCE)
        .with_for_update(skip_locked=True)
        .cte("old")
    )
    with _if_possible(connection):
        connection.execute(
            writing.on_conflict_do_update(
                index_elements=[failure.c.digest], set_={"failed": writing.excluded.failed}
            )
        )
        connection.execute(sa.delete(failure).where(failure.c.digest.in_(sa.select(old.c.digest))))


def forget_failure(connection: sa.Connection, tables: Tables, digest: Digest) -> None:
    """Forget that this layer failed: it is brewed."""
    failure = tables.failure
    with _if_possible(connection):
        connection.execute(sa.delete(failure).where(failure.c.digest == str(digest)))


@contextmanager
def _if_possible(connection: sa.Connection) -> Iterator[None]:
    """Leave the transaction as it was before the block if that finds no table that it may write to."""
    try:
        with connection.begin_nested():
            yield
    except sa.exc.DBAPIError as error:
        if not isinstance(as_ours(error, connection.engine), DatabaseNotReady):
            raise


def list_recent_failures(connection: sa.Connection, tables: Tables, *, limit: int) -> list[RecentFailure]:
    """Return the latest failures whose layers are set aside or wait for a retry, the latest first."""
    failure, queue = tables.failure, tables.queue
    latest = (
        sa.select(failure.c.digest, failure.c.failed)
        .order_by(failure.c.failed.desc())
        .limit(_LOOKED_AT)
        .subquery("latest")
    )
    rows = (
        connection.execute(
            sa.select(
                latest.c.digest,
                latest.c.failed,
                queue.c.attempts,
                queue.c.next_try,
                queue.c.reason,
                queue.c.size,
            )
            .join_from(latest, queue, queue.c.digest == latest.c.digest)
            .where(
                queue.c.reason.is_not(None), sa.or_(queue.c.next_try.is_(None), queue.c.next_try > AT_ONCE)
            )
            .order_by(latest.c.failed.desc(), latest.c.digest)
            .limit(limit)
        )
        .mappings()
        .all()
    )
    scopes = first_scopes(connection, tables, [row["digest"] for row in rows], most=1)
    return [RecentFailure(**row, scope=scopes.get(row["digest"], [None])[0]) for row in rows]


def one_line(connection: sa.Connection, reason: str) -> str:
    """Return the reason of a failure as one line of some 500 characters that the database can store."""
    text = " ".join(reason.encode("utf-8", "replace").decode().replace("\0", " ").split())
    return _storable(connection, text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…")


def _storable(connection: sa.Connection, text: str) -> str:
    """Return `text` with characters that the database's encoding lacks written as `\\u2026`."""
    encoding = text_encoding(connection)
    return text.encode(encoding, "backslashreplace").decode(encoding)


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
        .where(
            sa.or_(is_set_aside(queue), queue.c.next_try > AT_ONCE),
            *_like(connection, queue, reason_like, digest),
        )
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
            *_like(connection, queue, reason_like, digest),
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
    chosen = _these(manifest, failed, *_like(connection, manifest, reason_like, digest))
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
    chosen = _these(manifest, droppable, *_like(connection, manifest, reason_like, digest))
    dropped = sa.delete(manifest).where(chosen).returning(manifest.c.digest)
    return len(connection.scalars(dropped).all())


def _these(manifest: sa.Table, *where: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Select the rows that match `where` by key; all are locked first, in the order of keys."""
    key = (manifest.c.scope, manifest.c.digest)
    these = sa.select(*key).where(*where).order_by(*key).with_for_update().cte("these")
    return sa.tuple_(*key).in_(sa.select(*these.c))


def _like(
    connection: sa.Connection, table: sa.Table, reason_like: str | None, digest: Digest | None
) -> list[sa.ColumnElement[bool]]:
    like: list[sa.ColumnElement[bool]] = []
    if reason_like is not None:
        # `queue status` shows reasons with … for details that differ between layers.
        shown = (_storable(connection, part) for part in reason_like.split("…"))
        parts = (re.sub(r"([/%_])", r"/\1", part) for part in shown)
        like.append(table.c.reason.ilike(f"%{'%'.join(parts)}%", escape="/"))
    if digest is not None:
        like.append(table.c.digest == str(digest))
    return like
