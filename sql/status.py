"""How the queue stands, for people and for metrics."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from sql.tables import Priority, Tables, is_set_aside, waits

# What differs between two reasons of one kind: digests, sizes, offsets, addresses.
_PARTICULAR = re.compile(r"\b(?:[0-9a-f]{12,}|\d+)\b")
_HOUR = 3600
_MOST_LOCKED = 1_000
_MOST_REASONS = 10_000


@dataclass(frozen=True, slots=True)
class LockedLayer:
    """A layer in work: claimed at `since`, its lock last `renewed`. A lock set by hand has no brewer."""

    digest: str
    since: int
    renewed: int
    brewer: str | None


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """Counts of layers, and times in Unix seconds.

    `waiting` has all priorities, delayed layers included and locked ones not; `delayed` is how many of them
    wait for their next try. `locked` holds 1,000 at most, `locked_count` counts all. `set_aside` is by
    reason, with `…` for digests and numbers. `per_second` is the rate of the last hour, `empty_in` seconds
    at that rate, None if nothing was brewed.
    """

    waiting: dict[Priority, int]
    delayed: int
    oldest_waiting: int | None
    locked: tuple[LockedLayer, ...]
    locked_count: int
    set_aside: dict[str, int]
    brewed_last_hour: int
    per_second: float
    empty_in: float | None

    @property
    def waiting_count(self) -> int:
        """All layers that wait, whatever their priority."""
        return sum(self.waiting.values())

    @property
    def set_aside_count(self) -> int:
        """All layers that were set aside, whatever the reason."""
        return sum(self.set_aside.values())


def queue_status(connection: sa.Connection, tables: Tables, *, now: int) -> QueueStatus:
    """How the queue stands. It counts what waits row by row: about a second for some millions."""
    mapping, queue = tables.mapping, tables.queue
    rows = connection.execute(
        sa.select(
            queue.c.priority,
            sa.func.count().label("layers"),
            sa.func.count().filter(queue.c.next_try > now).label("delayed"),
            sa.func.min(queue.c.added).label("oldest"),
        )
        .where(waits(queue), queue.c.digest.not_in(_locked(tables)))
        .group_by(queue.c.priority)
    ).all()
    counts = {row.priority: row.layers for row in rows}
    waiting = {priority: counts.get(priority, 0) for priority in Priority}
    brewed = connection.scalars(
        sa.select(sa.func.count()).select_from(mapping).where(mapping.c.brewed > now - _HOUR)
    ).one()
    return QueueStatus(
        waiting=waiting,
        delayed=sum(row.delayed for row in rows),
        oldest_waiting=min((row.oldest for row in rows), default=None),
        locked=_locked_layers(connection, tables),
        locked_count=connection.scalars(
            sa.select(sa.func.count()).select_from(_locked(tables).subquery())
        ).one(),
        set_aside=_set_aside(connection, queue),
        brewed_last_hour=brewed,
        per_second=brewed / _HOUR,
        empty_in=sum(waiting.values()) * _HOUR / brewed if brewed else None,
    )


def count_waiting(connection: sa.Connection, tables: Tables) -> int:
    """How many layers wait, delayed ones included and locked ones not."""
    queue = tables.queue
    return connection.scalars(
        sa.select(sa.func.count())
        .select_from(queue)
        .where(waits(queue), queue.c.digest.not_in(_locked(tables)))
    ).one()


def _locked(tables: Tables) -> sa.Select[str]:
    mapping = tables.mapping
    return sa.select(mapping.c.digest).where(mapping.c.brew_lock.is_not(None), mapping.c.brewed.is_(None))


def _locked_layers(connection: sa.Connection, tables: Tables) -> tuple[LockedLayer, ...]:
    mapping, queue = tables.mapping, tables.queue
    since = sa.func.coalesce(queue.c.claimed, mapping.c.brew_lock)
    rows = connection.execute(
        sa.select(
            mapping.c.digest, mapping.c.brew_lock, since.label("since"), queue.c.claimed, queue.c.brewer
        )
        .outerjoin(queue, queue.c.digest == mapping.c.digest)
        .where(mapping.c.brew_lock.is_not(None), mapping.c.brewed.is_(None))
        .order_by(since, mapping.c.digest)
        .limit(_MOST_LOCKED)
    )
    return tuple(
        LockedLayer(row.digest, row.since, row.brew_lock, row.brewer if row.claimed is not None else None)
        for row in rows
    )


def _set_aside(connection: sa.Connection, queue: sa.Table) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for reason, layers in connection.execute(
        sa.select(queue.c.reason, sa.func.count())
        .where(is_set_aside(queue))
        .group_by(queue.c.reason)
        .order_by(sa.func.count().desc(), queue.c.reason)
        .limit(_MOST_REASONS)
    ):
        counts[_PARTICULAR.sub("…", reason)] += layers
    return dict(counts.most_common())
