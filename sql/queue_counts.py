"""The number of layers in each state: for the status page, `queue status`, the history and the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import sqlalchemy as sa

from sql.postgresql import query_timeout
from sql.tables import AT_ONCE, Priority, Tables, is_locked, is_set_aside

MAX_COUNTED = 10_000
"""How far `count_queue` counts; beyond that the status page shows "10,000+"."""

MAX_SECONDS = 60.0
"""The time-out on PostgreSQL for the metrics: the next attempt may find another host."""

_State = Literal["waiting", "delayed", "locked", "set_aside"]


@dataclass(frozen=True, slots=True)
class QueueCounts:
    """Counts of layers up to MAX_COUNTED, and when the oldest waiting one was added (Unix seconds).

    `waiting` includes delayed layers and excludes locked ones. `set_aside_manifests` are manifests whose
    layers could not be determined.
    """

    waiting: int
    delayed: int
    locked: int
    set_aside: int
    set_aside_manifests: int
    oldest_waiting: int | None


class QueueMetrics(NamedTuple):
    """The metrics of the queue. `layers` are their numbers by state and priority; `oldest_waiting` the age in
    seconds of the oldest one that may be brewed now, by priority; `last_brewed` the seconds since any layer
    was brewed, None if none was.
    """

    layers: dict[tuple[str, str], int]
    oldest_waiting: dict[str, int]
    last_brewed: int | None


def count_queue(connection: sa.Connection, tables: Tables, *, now: int) -> QueueCounts:
    """Return the counts of the queue for the status page. Every query reads a bounded number of rows."""
    mapping, queue, manifest = tables.mapping, tables.queue, tables.manifest
    free = queue.c.digest.not_in(locked_digests(tables))
    # Two counts, as SQLite would use neither partial index for both conditions at once.
    at_once = sa.select(queue.c.digest).where(queue.c.next_try == AT_ONCE, free)
    later = sa.select(queue.c.digest).where(queue.c.next_try > AT_ONCE, free)
    due = queue.c.next_try
    waiting = _count_some(connection, at_once, queue.c.priority, queue.c.added)
    waiting += _count_some(connection, later, due)
    return QueueCounts(
        waiting=min(waiting, MAX_COUNTED),
        delayed=_count_some(connection, later.where(queue.c.next_try > now), due),
        locked=_count_some(connection, locked_digests(tables), mapping.c.brew_lock),
        set_aside=_count_some_set_aside(connection, queue),
        set_aside_manifests=_count_some_set_aside(connection, manifest),
        oldest_waiting=min(_oldest_waiting(connection, tables).values(), default=None),
    )


def _count_some_set_aside(connection: sa.Connection, table: sa.Table) -> int:
    return _count_some(connection, sa.select(table.c.digest).where(is_set_aside(table)), table.c.digest)


def _count_some(connection: sa.Connection, rows: sa.Select[str], *order: sa.ColumnElement[Any]) -> int:
    """Count up to MAX_COUNTED rows, in the order of the index to be read.

    In no order, PostgreSQL may read the table instead, and find the first of these rows at its end.
    """
    some = rows.order_by(*order).limit(MAX_COUNTED).subquery()
    return connection.scalars(sa.select(sa.func.count()).select_from(some)).one()


def _oldest_waiting(connection: sa.Connection, tables: Tables) -> dict[Priority, int]:
    """Return when the oldest layer that may be brewed now was added. Priorities without any are left out."""
    queue = tables.queue
    # The first row of the index for each priority.
    first = [
        sa.select(queue.c.added)
        .where(
            queue.c.next_try == AT_ONCE,
            queue.c.priority == int(priority),
            queue.c.digest.not_in(locked_digests(tables)),
        )
        .order_by(queue.c.added)
        .limit(1)
        .scalar_subquery()
        for priority in Priority
    ]
    found = connection.execute(sa.select(*first)).one()
    return {priority: added for priority, added in zip(Priority, found, strict=True) if added is not None}


def count_waiting(connection: sa.Connection, tables: Tables) -> int:
    """Return how many layers wait, including delayed ones and excluding locked ones."""
    queue = tables.queue
    free = queue.c.digest.not_in(locked_digests(tables))
    # Two counts, as SQLite would use neither partial index for both conditions at once.
    at_once, later = queue.c.next_try == AT_ONCE, queue.c.next_try > AT_ONCE
    return _count(connection, queue, at_once, free) + _count(connection, queue, later, free)


def count_locked(connection: sa.Connection, tables: Tables) -> int:
    """Return how many layers are locked by a brewer."""
    mapping = tables.mapping
    return _count(connection, mapping, is_locked(mapping))


def count_set_aside(connection: sa.Connection, tables: Tables) -> int:
    """Return how many layers are set aside."""
    return _count(connection, tables.queue, is_set_aside(tables.queue))


def _count(connection: sa.Connection, table: sa.Table, *where: sa.ColumnElement[bool]) -> int:
    return connection.scalars(sa.select(sa.func.count()).select_from(table).where(*where)).one()


def locked_digests(tables: Tables) -> sa.Select[str]:
    """Select the digests of layers that are locked by a brewer."""
    return sa.select(tables.mapping.c.digest).where(is_locked(tables.mapping))


def read_queue(connection: sa.Connection, tables: Tables, *, now: int) -> QueueMetrics:
    """Return the metrics of the queue.

    Waiting layers may be brewed now; delayed ones wait for a retry. No statement reads more rows as brewed
    layers grow: each uses a partial index.
    """
    brewed = tables.mapping.c.brewed
    with query_timeout(MAX_SECONDS):
        counts = _count_by_state(connection, tables)
        oldest = _oldest_waiting(connection, tables)
        last = connection.scalar(sa.select(sa.func.max(brewed)).where(brewed <= now))
    return QueueMetrics(
        layers={
            (state, _label(priority)): layers
            for state, by_priority in counts.items()
            for priority, layers in by_priority.items()
        },
        oldest_waiting={
            _label(priority): max(0, now - added)
            for priority, added in oldest.items()
            if counts["waiting"][priority]
        },
        last_brewed=None if last is None else now - last,
    )


def _label(priority: Priority) -> str:
    return priority.name.lower()


def _count_by_state(connection: sa.Connection, tables: Tables) -> dict[_State, dict[Priority, int]]:
    queue, mapping = tables.queue, tables.mapping
    at_once = queue.c.next_try == AT_ONCE
    # Not limited to next_try 0, which all locked layers have: SQLite would read all waiting rows.
    locked = (
        sa.select(queue.c.priority, sa.func.count())
        .join_from(mapping, queue, queue.c.digest == mapping.c.digest)
        .where(is_locked(mapping))
        .group_by(queue.c.priority)
    )
    counts: dict[_State, dict[Priority, int]] = {
        "locked": _by_priority(connection, locked),
        "waiting": _count_by_priority(connection, queue, at_once),
        "delayed": _count_by_priority(connection, queue, queue.c.next_try > AT_ONCE),
        "set_aside": _count_by_priority(connection, queue, is_set_aside(queue)),
    }
    for priority, layers in counts["locked"].items():
        # Locked layers were counted among those that may be brewed.
        counts["waiting"][priority] = max(0, counts["waiting"][priority] - layers)
    return counts


def _count_by_priority(
    connection: sa.Connection, queue: sa.Table, which: sa.ColumnElement[bool]
) -> dict[Priority, int]:
    counting = sa.select(queue.c.priority, sa.func.count()).where(which).group_by(queue.c.priority)
    return _by_priority(connection, counting)


def _by_priority(connection: sa.Connection, counting: sa.Select[int, int]) -> dict[Priority, int]:
    """Return the counts of all priorities. A priority that was written by hand is left out."""
    counts = {row[0]: row[1] for row in connection.execute(counting)}
    return {priority: counts.get(int(priority), 0) for priority in Priority}
