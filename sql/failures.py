"""Failures of layers and manifests: record them, list the latest, and count their reasons.

Without the table of recent failures, which older versions did not create, none are recorded.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import sqlalchemy as sa

from core.digest import Digest
from core.errors import DatabaseNotReady
from sql.bulk_values import insert
from sql.driver_errors import translate
from sql.postgresql import text_encoding
from sql.scopes import first_scopes
from sql.tables import AT_ONCE, Tables, is_set_aside

KEEP_SECONDS = 7 * 86_400
NO_REASON = "no reason recorded"
# Details that differ between layers with the same reason: digests, sizes, offsets.
_DETAILS = re.compile(r"\b[0-9a-f]{40,}\b|\b\d+(?= bytes\b)|(?<= bytes, not )\d+\b|(?<=\bat byte )\d+\b")
_MAX_CHARS = 500
_FORGOTTEN_AT_ONCE = 100
_LOOKED_AT = 1_000
"""How many of the latest failures are read: some of these layers were brewed since."""
_MAX_COUNTED = 10_000
"""How many failures of one kind are counted by reason."""


@dataclass(frozen=True, slots=True)
class FailureReason:
    """A reason, with `…` for details that differ, and the numbers of layers and manifests set aside or
    delayed.
    """

    reason: str
    set_aside: int
    retried: int


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
        if not isinstance(translate(error, connection.engine), DatabaseNotReady):
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
    scopes = first_scopes(connection, tables, [row["digest"] for row in rows], limit=1)
    return [RecentFailure(**row, scope=scopes.get(row["digest"], [None])[0]) for row in rows]


def one_line(connection: sa.Connection, reason: str) -> str:
    """Return the reason of a failure as one line of some 500 characters that the database can store."""
    text = " ".join(reason.encode("utf-8", "replace").decode().replace("\0", " ").split())
    return storable(connection, text if len(text) <= _MAX_CHARS else text[: _MAX_CHARS - 1] + "…")


def storable(connection: sa.Connection, text: str) -> str:
    """Return `text` with characters that the database's encoding lacks written as `\\u2026`."""
    encoding = text_encoding(connection)
    return text.encode(encoding, "backslashreplace").decode(encoding)


def failure_kind(reason: str | None) -> str:
    """Return the reason of a failure with `…` for digests and sizes, so that equal failures look equal."""
    return _DETAILS.sub("…", reason or NO_REASON)


def list_failure_reasons(connection: sa.Connection, tables: Tables, *, now: int) -> list[FailureReason]:
    """Return why layers and manifests fail, the most frequent reason first, of _MAX_COUNTED of each."""
    queue, manifest = tables.queue, tables.manifest
    set_aside: Counter[str] = Counter()
    retried: Counter[str] = Counter()
    delayed = sa.and_(queue.c.next_try > AT_ONCE, queue.c.next_try > now)
    for counter, table, which, order in (
        (set_aside, queue, is_set_aside(queue), queue.c.digest),
        (set_aside, manifest, is_set_aside(manifest), manifest.c.digest),
        (retried, queue, delayed, queue.c.next_try),
    ):
        # In the order of the index to be read: otherwise PostgreSQL may read the table.
        some = sa.select(table.c.reason).where(which).order_by(order).limit(_MAX_COUNTED).subquery()
        for reason, rows in connection.execute(
            sa.select(some.c.reason, sa.func.count()).group_by(some.c.reason)
        ):
            counter[failure_kind(reason)] += rows
    reasons = [FailureReason(kind, set_aside[kind], retried[kind]) for kind in {*set_aside, *retried}]
    return sorted(reasons, key=lambda one: (-one.set_aside, -one.retried, one.reason))
