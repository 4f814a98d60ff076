"""The state of the queue, for `queue status`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from sql.failures import NO_REASON, failure_kind
from sql.manifests import count_waiting_manifests
from sql.queue_counts import count_locked, locked_digests
from sql.scopes import first_scopes
from sql.tables import AT_ONCE, Priority, Tables, is_locked, is_set_aside

_HOUR = 3600
_MAX_LISTED = 1_000
_MAX_REASONS = 10_000
_OTHERS = "other reasons"


@dataclass(frozen=True, slots=True)
class LockedLayer:
    """A layer being brewed: claimed at `since`, its lock last `renewed`. A lock set by hand has no brewer."""

    digest: str
    since: int
    renewed: int
    brewer: str | None


@dataclass(frozen=True, slots=True)
class FailedLayer:
    """A layer that was set aside or, with a `next_try`, is retried then (Unix seconds).

    `kind` is the reason with `…` for details that differ. `scopes` are the first MAX_SCOPES by name.
    """

    digest: str
    size: int | None
    scopes: tuple[str, ...]
    attempts: int
    next_try: int | None
    reason: str
    kind: str


@dataclass(frozen=True, slots=True)
class DelayedLayers:
    """How many layers wait for a retry for one reason, and when the first and the last are due."""

    layers: int
    first_try: int
    last_try: int


@dataclass(frozen=True, slots=True)
class ManifestStatus:
    """Unresolved manifests: how many wait, and how many were set aside, by reason."""

    waiting: int
    set_aside: dict[str, int]

    @property
    def set_aside_count(self) -> int:
        """All manifests that were set aside."""
        return sum(self.set_aside.values())


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """Counts of layers, and times in Unix seconds.

    `waiting` has every priority, including delayed layers and excluding locked ones; `delayed` counts those
    that wait for a retry, `delayed_by_reason` groups them. `locked`, `set_aside_layers` and `delayed_layers`
    hold 1,000 at most; `locked_count` counts all. `set_aside` is by reason, with `…` for digests and sizes;
    of very many reasons, the rarest are one entry. `brewed_last_hour` counts layers brewed here, `per_second`
    is that rate, and `empty_in` the seconds until all undelayed layers are brewed, None if nothing was
    brewed.
    """

    waiting: dict[Priority, int]
    delayed: int
    oldest_waiting: int | None
    locked: tuple[LockedLayer, ...]
    locked_count: int
    set_aside: dict[str, int]
    set_aside_layers: tuple[FailedLayer, ...]
    delayed_by_reason: dict[str, DelayedLayers]
    delayed_layers: tuple[FailedLayer, ...]
    brewed_last_hour: int
    per_second: float
    empty_in: float | None
    manifests: ManifestStatus

    @property
    def waiting_count(self) -> int:
        """All waiting layers."""
        return sum(self.waiting.values())

    @property
    def set_aside_count(self) -> int:
        """All layers that were set aside."""
        return sum(self.set_aside.values())


def queue_status(connection: sa.Connection, tables: Tables, *, now: int) -> QueueStatus:
    """Return the state of the queue. It counts row by row: about a second for some millions."""
    mapping, queue = tables.mapping, tables.queue
    # By the conditions of the partial indexes.
    waits = sa.or_(queue.c.next_try == AT_ONCE, queue.c.next_try > AT_ONCE)
    free = queue.c.digest.not_in(locked_digests(tables))
    rows = connection.execute(
        sa.select(
            queue.c.priority,
            sa.func.count().label("layers"),
            sa.func.count().filter(queue.c.next_try > now).label("delayed"),
            sa.func.min(queue.c.added).label("oldest"),
        )
        .where(waits, free)
        .group_by(queue.c.priority)
    ).all()
    counts = {row.priority: row.layers for row in rows}
    waiting = {priority: counts.get(priority, 0) for priority in Priority}
    delayed = sum(row.delayed for row in rows)
    brewed = connection.scalars(
        # A layer without a brewer was adopted, not brewed here.
        sa.select(sa.func.count())
        .select_from(mapping)
        .join(queue, queue.c.digest == mapping.c.digest)
        .where(mapping.c.brewed > now - _HOUR, queue.c.brewer.is_not(None))
    ).one()
    return QueueStatus(
        waiting=waiting,
        delayed=delayed,
        oldest_waiting=min((row.oldest for row in rows), default=None),
        locked=_locked_layers(connection, tables),
        locked_count=count_locked(connection, tables),
        set_aside=_set_aside(connection, queue),
        set_aside_layers=_failed_layers(connection, tables, is_set_aside(queue), queue.c.digest),
        delayed_by_reason=_delayed(connection, tables, now),
        delayed_layers=_failed_layers(connection, tables, _is_delayed(tables, now), queue.c.next_try),
        brewed_last_hour=brewed,
        per_second=brewed / _HOUR,
        empty_in=(sum(waiting.values()) - delayed) * _HOUR / brewed if brewed else None,
        manifests=ManifestStatus(
            waiting=count_waiting_manifests(connection, tables),
            set_aside=_set_aside(connection, tables.manifest),
        ),
    )


def _locked_layers(connection: sa.Connection, tables: Tables) -> tuple[LockedLayer, ...]:
    mapping, queue = tables.mapping, tables.queue
    since = sa.func.coalesce(queue.c.claimed, mapping.c.brew_lock)
    rows = connection.execute(
        sa.select(
            mapping.c.digest, mapping.c.brew_lock, since.label("since"), queue.c.claimed, queue.c.brewer
        )
        .outerjoin(queue, queue.c.digest == mapping.c.digest)
        .where(is_locked(mapping))
        .order_by(since, mapping.c.digest)
        .limit(_MAX_LISTED)
    )
    return tuple(
        LockedLayer(row.digest, row.since, row.brew_lock, row.brewer if row.claimed is not None else None)
        for row in rows
    )


def _is_delayed(tables: Tables, now: int) -> sa.ColumnElement[bool]:
    queue = tables.queue
    free = queue.c.digest.not_in(locked_digests(tables))
    # The first condition is that of the partial index.
    return sa.and_(queue.c.next_try > AT_ONCE, queue.c.next_try > now, free)


def _failed_layers(
    connection: sa.Connection, tables: Tables, which: sa.ColumnElement[bool], order: sa.ColumnElement[Any]
) -> tuple[FailedLayer, ...]:
    queue = tables.queue
    columns = (queue.c.digest, queue.c.size, queue.c.attempts, queue.c.next_try, queue.c.reason)
    rows = connection.execute(sa.select(*columns).where(which).order_by(order).limit(_MAX_LISTED)).all()
    scopes = first_scopes(connection, tables, [row.digest for row in rows])
    return tuple(
        FailedLayer(
            row.digest,
            row.size,
            tuple(scopes.get(row.digest, ())),
            row.attempts,
            row.next_try,
            row.reason or NO_REASON,
            failure_kind(row.reason),
        )
        for row in rows
    )


def _delayed(connection: sa.Connection, tables: Tables, now: int) -> dict[str, DelayedLayers]:
    """Return the layers that wait for a retry by reason, the soonest first."""
    queue = tables.queue
    first = sa.func.min(queue.c.next_try)
    found: dict[str, DelayedLayers] = {}
    for reason, layers, soonest, latest in connection.execute(
        sa.select(queue.c.reason, sa.func.count(), first, sa.func.max(queue.c.next_try))
        .where(_is_delayed(tables, now))
        .group_by(queue.c.reason)
        .order_by(first, queue.c.reason)
        .limit(_MAX_REASONS)
    ):
        kind = failure_kind(reason)
        if had := found.get(kind):
            layers, latest = had.layers + layers, max(had.last_try, latest)
            soonest = had.first_try
        found[kind] = DelayedLayers(layers, soonest, latest)
    return found


def _set_aside(connection: sa.Connection, table: sa.Table) -> dict[str, int]:
    """Count the layers or manifests that were set aside, by reason, the most frequent first."""
    number = sa.func.count()
    counts: Counter[str] = Counter()
    for reason, rows in connection.execute(
        sa.select(table.c.reason, number)
        .where(is_set_aside(table))
        .group_by(table.c.reason)
        .order_by(number.desc(), table.c.reason)
        .limit(_MAX_REASONS)
    ):
        counts[failure_kind(reason)] += rows
    all_of_them = connection.scalars(sa.select(number).select_from(table).where(is_set_aside(table))).one()
    others = all_of_them - counts.total()
    return {**dict(counts.most_common()), **({_OTHERS: others} if others > 0 else {})}
