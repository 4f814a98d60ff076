"""How the queue stands, for people and for metrics."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from sql.manifests import count_manifests
from sql.tables import Priority, Tables, is_set_aside, waits

# What differs between two reasons of one kind: digests, sizes, offsets, addresses.
_PARTICULAR = re.compile(r"\b(?:[0-9a-f]{12,}|\d+)\b")
_HOUR = 3600
_MOST_LOCKED = 1_000
_MOST_REASONS = 10_000
_OTHERS = "other reasons"


@dataclass(frozen=True, slots=True)
class LockedLayer:
    """A layer in work: claimed at `since`, its lock last `renewed`. A lock set by hand has no brewer."""

    digest: str
    since: int
    renewed: int
    brewer: str | None


@dataclass(frozen=True, slots=True)
class ManifestStatus:
    """Manifests whose layers are still to be found out: those that wait, and those set aside, by reason."""

    waiting: int
    set_aside: dict[str, int]

    @property
    def set_aside_count(self) -> int:
        """All manifests that were set aside, whatever the reason."""
        return sum(self.set_aside.values())


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """Counts of layers, and times in Unix seconds.

    `waiting` has all priorities, delayed layers included and locked ones not; `delayed` is how many of them
    wait for their next try. `locked` holds 1,000 at most, `locked_count` counts all. `set_aside` is by
    reason, with `…` for digests and numbers; of very many reasons those with the fewest layers are one.
    `per_second` is the rate of the last hour, `empty_in` seconds at that rate, None if nothing was brewed.
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
    manifests: ManifestStatus

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
        manifests=ManifestStatus(
            waiting=count_manifests(connection, tables).waiting,
            set_aside=_set_aside(connection, tables.manifest),
        ),
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


def _set_aside(connection: sa.Connection, table: sa.Table) -> dict[str, int]:
    """How many rows of the queue, or of the manifests, were set aside, by reason, the most frequent first."""
    number = sa.func.count()
    counts: Counter[str] = Counter()
    for reason, rows in connection.execute(
        sa.select(table.c.reason, number)
        .where(is_set_aside(table))
        .group_by(table.c.reason)
        .order_by(number.desc(), table.c.reason)
        .limit(_MOST_REASONS)
    ):
        counts[_PARTICULAR.sub("…", reason)] += rows
    all_of_them = connection.scalars(sa.select(number).select_from(table).where(is_set_aside(table))).one()
    others = all_of_them - counts.total()
    return {**dict(counts.most_common()), **({_OTHERS: others} if others > 0 else {})}
