"""Recent failures of layers, for the status page, and reasons in the form stored in the queue.

Without the table, which older versions did not create, failures are not recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from core.digest import Digest
from core.errors import DatabaseNotReady
from sql.bulk_values import insert
from sql.driver_errors import as_ours
from sql.scopes import first_scopes
from sql.tables import AT_ONCE, Tables

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


def one_line(reason: str) -> str:
    """Return the reason of a failure as one line of at most 500 characters that any database can store."""
    text = " ".join(reason.encode("utf-8", "replace").decode().replace("\0", " ").split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
