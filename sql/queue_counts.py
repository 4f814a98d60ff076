"""The queue's gauges: its layers by state and priority, and the last brewed one. Few, cheap statements."""

from __future__ import annotations

from typing import Literal

import sqlalchemy as sa

from core.metrics import LAST_BREWED, QUEUE_LAYERS, QUEUE_OLDEST, Readings
from sql.postgresql import query_timeout
from sql.tables import AT_ONCE, Priority, Tables, is_set_aside

MOST_SECONDS = 60.0
"""The time-out on PostgreSQL for all of it: the next attempt may find another host."""

_State = Literal["waiting", "delayed", "locked", "set_aside"]


def read_queue(connection: sa.Connection, tables: Tables, *, now: int) -> Readings:
    """Return the gauges of the queue. No statement reads more rows as brewed layers grow: each uses a partial
    index.

    Waiting layers may be brewed now; delayed ones wait for a retry.
    """
    brewed = tables.mapping.c.brewed
    with query_timeout(MOST_SECONDS):
        found = _count_by_state(connection, tables)
        last = connection.scalar(sa.select(sa.func.max(brewed)).where(brewed <= now))
        return {
            QUEUE_LAYERS: {
                (state, _label(priority)): float(layers)
                for state, counts in found.items()
                for priority, layers in counts.items()
            },
            QUEUE_OLDEST: {
                (_label(priority),): max(0.0, float(now - added))
                for priority, layers in found["waiting"].items()
                if layers and (added := _oldest(connection, tables, priority)) is not None
            },
            LAST_BREWED: {} if last is None else {(): float(now - last)},
        }


def _count_by_state(connection: sa.Connection, tables: Tables) -> dict[_State, dict[Priority, int]]:
    queue, mapping = tables.queue, tables.mapping
    at_once = queue.c.next_try == AT_ONCE
    # Not limited to next_try 0, which all locked layers have: SQLite would read all waiting rows.
    locked = (
        sa.select(queue.c.priority, sa.func.count())
        .join_from(mapping, queue, queue.c.digest == mapping.c.digest)
        .where(mapping.c.brew_lock.is_not(None), mapping.c.brewed.is_(None))
        .group_by(queue.c.priority)
    )
    found: dict[_State, dict[Priority, int]] = {
        "locked": _by_priority(connection, locked),
        "waiting": _count(connection, queue, at_once),
        "delayed": _count(connection, queue, queue.c.next_try > AT_ONCE),
        "set_aside": _count(connection, queue, is_set_aside(queue)),
    }
    for priority, layers in found["locked"].items():
        # Locked layers were counted among those that may be brewed.
        found["waiting"][priority] = max(0, found["waiting"][priority] - layers)
    return found


def _label(priority: Priority) -> str:
    return priority.name.lower()


def _oldest(connection: sa.Connection, tables: Tables, priority: Priority) -> int | None:
    """Return when the layer was added that has waited longest."""
    queue, mapping = tables.queue, tables.mapping
    locked = sa.exists().where(mapping.c.digest == queue.c.digest, mapping.c.brew_lock.is_not(None))
    return connection.scalar(
        sa.select(queue.c.added)
        .where(queue.c.next_try == AT_ONCE, queue.c.priority == int(priority), ~locked)
        .order_by(queue.c.added)
        .limit(1)
    )


def _count(connection: sa.Connection, queue: sa.Table, which: sa.ColumnElement[bool]) -> dict[Priority, int]:
    counting = sa.select(queue.c.priority, sa.func.count()).where(which).group_by(queue.c.priority)
    return _by_priority(connection, counting)


def _by_priority(connection: sa.Connection, counting: sa.Select[int, int]) -> dict[Priority, int]:
    """Return the counts of all priorities. A priority that was written by hand is left out."""
    counts = {row[0]: row[1] for row in connection.execute(counting)}
    return {priority: counts.get(int(priority), 0) for priority in Priority}
