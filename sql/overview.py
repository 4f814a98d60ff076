"""The queue for the status page. Every query reads a bounded number of rows.

A query that stops at a limit is ordered by the index to be read: otherwise PostgreSQL may read the table
instead, and find the first of these rows at its end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from sql.status import failure_kind
from sql.tables import AT_ONCE, Priority, Tables, is_set_aside

MOST_COUNTED = 10_000
"""Rows of one kind that are counted; beyond that the page shows "10,000+"."""

NEWEST = 1_000
"""The newest layers, by which busy repositories are found."""

_MOST_SCOPES = 20_000


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Counts of layers up to MOST_COUNTED, and when the oldest waiting one was added (Unix seconds).

    `waiting` includes delayed layers and excludes locked ones. `set_aside_manifests` are manifests whose
    layers could not be determined.
    """

    waiting: int
    delayed: int
    locked: int
    set_aside: int
    set_aside_manifests: int
    oldest_waiting: int | None


@dataclass(frozen=True, slots=True)
class FailureReason:
    """A reason, with `…` for details that differ, and the numbers of layers and manifests set aside or
    delayed.
    """

    reason: str
    set_aside: int
    retried: int


@dataclass(frozen=True, slots=True)
class BusyRepository:
    """A repository that many of the NEWEST layers belong to: how many, and how many of these are brewed.

    `size` is in bytes, of the layers whose size is known.
    """

    scope: str
    layers: int
    brewed: int
    size: int


def count_queue(connection: sa.Connection, tables: Tables, *, now: int) -> QueueCounts:
    """Return the counts of the queue."""
    mapping, queue, manifest = tables.mapping, tables.queue, tables.manifest
    locked = sa.select(mapping.c.digest).where(mapping.c.brew_lock.is_not(None), mapping.c.brewed.is_(None))
    free = queue.c.digest.not_in(locked)
    # Two counts, as SQLite would use neither partial index for both conditions at once.
    at_once = sa.select(queue.c.digest).where(queue.c.next_try == AT_ONCE, free)
    later = sa.select(queue.c.digest).where(queue.c.next_try > AT_ONCE, free)
    due = queue.c.next_try
    waiting = _count(connection, at_once, queue.c.priority, queue.c.added) + _count(connection, later, due)
    return QueueCounts(
        waiting=min(waiting, MOST_COUNTED),
        delayed=_count(connection, later.where(queue.c.next_try > now), due),
        locked=_count(connection, locked, mapping.c.brew_lock),
        set_aside=_count_set_aside(connection, queue),
        set_aside_manifests=_count_set_aside(connection, manifest),
        oldest_waiting=_oldest_waiting(connection, tables, free),
    )


def _count_set_aside(connection: sa.Connection, table: sa.Table) -> int:
    return _count(connection, sa.select(table.c.digest).where(is_set_aside(table)), table.c.digest)


def _count(connection: sa.Connection, rows: sa.Select[str], *order: sa.ColumnElement[Any]) -> int:
    bounded = rows.order_by(*order).limit(MOST_COUNTED).subquery()
    return connection.scalars(sa.select(sa.func.count()).select_from(bounded)).one()


def _oldest_waiting(connection: sa.Connection, tables: Tables, free: sa.ColumnElement[bool]) -> int | None:
    queue = tables.queue
    # For each priority the first row of the index.
    heads = [
        sa.select(queue.c.added)
        .where(queue.c.next_try == AT_ONCE, queue.c.priority == int(priority), free)
        .order_by(queue.c.added)
        .limit(1)
        .scalar_subquery()
        for priority in Priority
    ]
    found = connection.execute(sa.select(*heads)).one()
    return min((added for added in found if added is not None), default=None)


def list_failure_reasons(connection: sa.Connection, tables: Tables, *, now: int) -> list[FailureReason]:
    """Return why layers and manifests fail, the most frequent reason first, of MOST_COUNTED of each."""
    queue, manifest = tables.queue, tables.manifest
    set_aside: Counter[str] = Counter()
    retried: Counter[str] = Counter()
    delayed = sa.and_(queue.c.next_try > AT_ONCE, queue.c.next_try > now)
    for counter, table, which, order in (
        (set_aside, queue, is_set_aside(queue), queue.c.digest),
        (set_aside, manifest, is_set_aside(manifest), manifest.c.digest),
        (retried, queue, delayed, queue.c.next_try),
    ):
        some = sa.select(table.c.reason).where(which).order_by(order).limit(MOST_COUNTED).subquery()
        for reason, rows in connection.execute(
            sa.select(some.c.reason, sa.func.count()).group_by(some.c.reason)
        ):
            counter[failure_kind(reason)] += rows
    reasons = [FailureReason(kind, set_aside[kind], retried[kind]) for kind in {*set_aside, *retried}]
    return sorted(reasons, key=lambda one: (-one.set_aside, -one.retried, one.reason))


def list_busy_repositories(connection: sa.Connection, tables: Tables, *, limit: int) -> list[BusyRepository]:
    """Return the repositories that most of the NEWEST layers belong to.

    Requests are not counted in the database, so these represent them: new layers are pushed, requested or
    scanned ones.
    """
    mapping, queue, scope = tables.mapping, tables.queue, tables.scope
    newest = (
        sa.select(mapping.c.digest, mapping.c.brewed)
        .where(mapping.c.added.is_not(None))
        .order_by(mapping.c.added.desc())
        .limit(NEWEST)
        .subquery("newest")
    )
    # A base layer may belong to very many repositories.
    pairs = (
        sa.select(scope.c.scope, newest.c.digest, newest.c.brewed)
        .join_from(newest, scope, scope.c.digest == newest.c.digest)
        .limit(_MOST_SCOPES)
        .subquery("pairs")
    )
    brewed, size = pairs.c.brewed.is_not(None), sa.func.coalesce(queue.c.size, 0)
    layers = sa.func.count()
    rows = connection.execute(
        sa.select(
            pairs.c.scope,
            layers.label("layers"),
            layers.filter(brewed).label("brewed"),
            sa.func.sum(size).label("size"),
        )
        .join_from(pairs, queue, queue.c.digest == pairs.c.digest, isouter=True)
        .group_by(pairs.c.scope)
        .order_by(layers.desc(), pairs.c.scope)
        .limit(limit)
    )
    return [BusyRepository(row.scope, row.layers, row.brewed, int(row.size)) for row in rows]
