"""Ids that another service made are taken over into the mapping; none that is there is ever overwritten."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import sqlalchemy as sa

from sql.given import given
from sql.queue import write_queue
from sql.tables import Tables
from sql.upsert import insert

Outcome = Literal["taken", "had it", "has another", "another layer's", "being brewed"]
"""What becomes of an id: its layer gets it; has this one already; has another one; another layer has this
one, and the seed's index wants it unique; somebody is brewing the layer.
"""

_TRIES = 3


@dataclass(frozen=True, slots=True)
class MadeElsewhere:
    """A layer (`sha256:<hex>`) and the id that another service gave it."""

    digest: str
    rbtorrent_id: str


def judge_ids(
    connection: sa.Connection, tables: Tables, ids: Sequence[MadeElsewhere]
) -> dict[MadeElsewhere, Outcome]:
    """What `take_over_ids` would do with each. Of several for one layer, or of one for several, the first
    counts.
    """
    return _judge(connection, tables, ids)[0]


def take_over_ids(
    connection: sa.Connection, tables: Tables, ids: Sequence[MadeElsewhere], *, now: int
) -> dict[MadeElsewhere, Outcome]:
    """Give the layers these ids, and mark them brewed as of `now`; those that wait are taken off the queue.

    Returns what became of each.
    """
    if connection.dialect.name == "postgresql":
        # One takeover at a time: two that insert the same ids in different rows would wait in a circle.
        key = zlib.crc32(f"take over {tables.mapping.name}".encode())
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
    outcomes: dict[MadeElsewhere, Outcome] = {}
    left = list(ids)
    for _ in range(_TRIES):
        judged, waiting = _judge(connection, tables, left)
        wanted = [one for one, outcome in judged.items() if outcome == "taken"]
        written = _update(connection, tables, [one for one in wanted if one.digest in waiting], now=now)
        written |= _insert(connection, tables, [one for one in wanted if one.digest not in waiting], now=now)
        left = [one for one in wanted if one.digest not in written]
        outcomes |= judged
        if not left:
            return outcomes
        # Somebody was quicker with those: now it can be seen what they did.
    return outcomes | dict.fromkeys(left, "being brewed")


def _judge(
    connection: sa.Connection, tables: Tables, ids: Sequence[MadeElsewhere]
) -> tuple[dict[MadeElsewhere, Outcome], set[str]]:
    """What to do with each, and which of the layers are in the mapping."""
    mapping, owner = tables.mapping, tables.mapping.alias("owner")
    asked = _asked(connection, ids)
    # One look at the layers, and one at the ids: only what is there comes back.
    there = {
        row.digest: row
        for row in connection.execute(
            sa.select(mapping.c.digest, mapping.c.rbtorrent_id, mapping.c.brewed, mapping.c.brew_lock).join(
                asked, asked.c.digest == mapping.c.digest
            )
        ).all()
    }
    owners: dict[str, str] = {
        row.rbtorrent_id: row.digest
        for row in connection.execute(
            sa.select(owner.c.rbtorrent_id, owner.c.digest).join(
                asked, asked.c.rbtorrent_id == owner.c.rbtorrent_id
            )
        ).all()
    }
    has = {digest: row.rbtorrent_id for digest, row in there.items() if row.rbtorrent_id is not None}
    outcomes: dict[MadeElsewhere, Outcome] = {}
    for one in ids:
        row = there.get(one.digest)
        if one in outcomes:
            continue
        if one.digest in has:
            outcomes[one] = "had it" if has[one.digest] == one.rbtorrent_id else "has another"
        elif one.rbtorrent_id in owners:
            outcomes[one] = "another layer's"
        elif row is not None and row.brewed is None and row.brew_lock is not None:
            outcomes[one] = "being brewed"
        else:
            outcomes[one] = "taken"
            has[one.digest] = one.rbtorrent_id
            owners[one.rbtorrent_id] = one.digest
    return outcomes, set(there)


def _update(connection: sa.Connection, tables: Tables, ids: Sequence[MadeElsewhere], *, now: int) -> set[str]:
    """The digests of the layers in the mapping that got their ids."""
    if not ids:
        return set()
    mapping = tables.mapping
    asked = _asked(connection, ids)
    free = sa.and_(
        mapping.c.rbtorrent_id.is_(None),
        sa.or_(mapping.c.brewed.is_not(None), mapping.c.brew_lock.is_(None)),
    )
    # Locked in the order of their digests, as everybody locks them.
    updated = connection.scalars(
        sa.select(mapping.c.digest)
        .join(asked, asked.c.digest == mapping.c.digest)
        .where(free)
        .order_by(mapping.c.digest)
        .with_for_update(of=mapping)
    ).all()
    connection.execute(
        sa.update(mapping)
        .where(mapping.c.digest == asked.c.digest, free)
        .values(rbtorrent_id=asked.c.rbtorrent_id, brewed=now)
    )
    # No brewer of ours has anything to do with these ids, whoever tried before (sql/again.py goes by it).
    write_queue(connection, tables, updated, next_try=None, reason=None, claimed=None, brewer=None)
    return set(updated)


def _insert(connection: sa.Connection, tables: Tables, ids: Sequence[MadeElsewhere], *, now: int) -> set[str]:
    """The digests of the layers that were put into the mapping with their ids."""
    if not ids:
        return set()
    asked = _asked(connection, sorted(ids, key=lambda one: one.digest))
    when = sa.literal(now, sa.BigInteger)
    new = sa.select(asked.c.digest, asked.c.rbtorrent_id, when, when).where(sa.true())
    inserted = insert(connection, tables.mapping).from_select(
        ["digest", "rbtorrent_id", "added", "brewed"], new
    )
    return set(connection.scalars(inserted.on_conflict_do_nothing().returning(tables.mapping.c.digest)).all())


def _asked(connection: sa.Connection, ids: Sequence[MadeElsewhere]) -> sa.Subquery:
    columns = {"digest": sa.Text(), "rbtorrent_id": sa.Text()}
    return given(connection, "asked", columns, ((one.digest, one.rbtorrent_id) for one in ids))
