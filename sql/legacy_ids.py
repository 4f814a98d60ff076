"""Ids of an older service: read from its table, and adopted into the mapping.

The old table need not have an index, so it is copied into a temporary table that has one. All calls of a run
use one connection, that of `sql.transaction.temporary_tables`. An id in the mapping is never overwritten.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import sqlalchemy as sa

from core.digest import Digest
from core.errors import DatabaseNotReady
from sql.bulk_values import bulk_values, digest_values, insert
from sql.claims import write_queue
from sql.tables import Tables


@dataclass(frozen=True, slots=True)
class OldId:
    """A row of the old table, as stored."""

    mds_key: str | None
    rbtorrent_id: str | None


def stage_old_ids(connection: sa.Connection, tables: Tables) -> int:
    """Copy the old table. Return the number of its rows.

    Raises DatabaseNotReady if that table, or one of the MDS driver's, does not exist.
    """
    inspector = sa.inspect(connection)
    lacking = [
        table.name for table in (tables.old, tables.mfs, tables.mds) if not inspector.has_table(table.name)
    ]
    if lacking:
        raise DatabaseNotReady(f"no table {', '.join(lacking)}: db.url must name the registry's database")
    copy, old = _copy(tables), tables.old
    connection.execute(sa.schema.DropTable(copy, if_exists=True))
    copy.create(connection)
    copied = connection.execute(
        sa.insert(copy).from_select(["mds_key", "rbtorrent_id"], sa.select(old.c.mds_key, old.c.rbtorrent_id))
    ).rowcount
    if connection.dialect.name == "postgresql":
        # Autovacuum skips temporary tables, and without statistics the planner ignores the index.
        connection.exec_driver_sql(f"ANALYZE {copy.name}")
    return copied


def take_old_ids(connection: sa.Connection, tables: Tables, keys: Iterable[str]) -> list[OldId]:
    """Delete the rows with these keys from the copy, and return them."""
    copy = _copy(tables)
    rows = connection.execute(
        sa.delete(copy)
        .where(copy.c.mds_key.in_(digest_values(connection, keys)))
        .returning(copy.c.mds_key, copy.c.rbtorrent_id)
    ).all()
    return [OldId(row.mds_key, row.rbtorrent_id) for row in rows]


def list_untaken_old_ids(connection: sa.Connection, tables: Tables, *, limit: int) -> tuple[int, list[OldId]]:
    """Return how many rows were not taken, and up to `limit` of them."""
    copy = _copy(tables)
    count = connection.scalars(sa.select(sa.func.count()).select_from(copy)).one()
    rows = connection.execute(sa.select(copy.c.mds_key, copy.c.rbtorrent_id).limit(limit))
    return count, [OldId(row.mds_key, row.rbtorrent_id) for row in rows]


def drop_old_ids(connection: sa.Connection, tables: Tables) -> None:
    """Drop the copy."""
    connection.execute(sa.schema.DropTable(_copy(tables), if_exists=True))


@lru_cache
def _copy(tables: Tables) -> sa.Table:
    # One object, as SQLAlchemy caches statements by table.
    table = sa.Table(
        f"{tables.mapping.name}_old_ids",
        sa.MetaData(),
        sa.Column("mds_key", sa.Text),
        sa.Column("rbtorrent_id", sa.Text),
        prefixes=["TEMPORARY"],
    )
    sa.Index(f"{table.name}_key", table.c.mds_key)
    return table


Outcome = Literal[
    "taken",  # its layer gets it
    "had it",  # its layer has it already
    "has another",  # its layer has another id
    "another layer's",  # another layer has it, and ids are unique
    "being brewed",  # its layer is being brewed
]
"""What becomes of an id."""

_TRIES = 3


@dataclass(frozen=True, slots=True)
class LegacyId:
    """A layer and its id from an older service."""

    digest: Digest
    rbtorrent_id: str


def classify_legacy_ids(
    connection: sa.Connection, tables: Tables, ids: Sequence[LegacyId]
) -> dict[LegacyId, Outcome]:
    """Return what `adopt_legacy_ids` would do with each.

    Of several ids for one layer, or several layers for one id, the first counts.
    """
    return _classify(connection, tables, ids)[0]


def adopt_legacy_ids(
    connection: sa.Connection, tables: Tables, ids: Sequence[LegacyId], *, now: int
) -> dict[LegacyId, Outcome]:
    """Give the layers these ids and mark them brewed as of `now`. Waiting layers leave the queue.

    Return the outcome of each.
    """
    if connection.dialect.name == "postgresql":
        # One at a time: two that insert the same ids in different rows would deadlock.
        key = zlib.crc32(f"take over {tables.mapping.name}".encode())
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))
    outcomes: dict[LegacyId, Outcome] = {}
    left = list(ids)
    for _ in range(_TRIES):
        outcomes_now, waiting = _classify(connection, tables, left)
        wanted = [one for one, outcome in outcomes_now.items() if outcome == "taken"]
        written = _update(connection, tables, [one for one in wanted if str(one.digest) in waiting], now=now)
        written |= _insert(
            connection, tables, [one for one in wanted if str(one.digest) not in waiting], now=now
        )
        left = [one for one in wanted if str(one.digest) not in written]
        outcomes |= outcomes_now
        if not left:
            return outcomes
        # Another transaction was faster with those: read its result.
    return outcomes | dict.fromkeys(left, "being brewed")


def _classify(
    connection: sa.Connection, tables: Tables, ids: Sequence[LegacyId]
) -> tuple[dict[LegacyId, Outcome], set[str]]:
    """Return the outcome for each id, and which of the layers are in the mapping."""
    mapping, requested = tables.mapping, _requested(connection, ids)
    # One query for the layers, and one for the ids.
    layers = connection.execute(
        sa.select(mapping.c.digest, mapping.c.rbtorrent_id, mapping.c.brewed, mapping.c.brew_lock).join(
            requested, requested.c.digest == mapping.c.digest
        )
    ).all()
    used = connection.scalars(
        sa.select(mapping.c.rbtorrent_id).join(requested, requested.c.rbtorrent_id == mapping.c.rbtorrent_id)
    )
    by_digest, used_ids = {row.digest: row for row in layers}, set(used)
    has = {digest: row.rbtorrent_id for digest, row in by_digest.items() if row.rbtorrent_id is not None}
    outcomes: dict[LegacyId, Outcome] = {}
    for one in ids:
        row = by_digest.get(str(one.digest))
        if one in outcomes:
            continue
        if str(one.digest) in has:
            outcomes[one] = "had it" if has[str(one.digest)] == one.rbtorrent_id else "has another"
        elif one.rbtorrent_id in used_ids:
            outcomes[one] = "another layer's"
        elif row is not None and row.brewed is None and row.brew_lock is not None:
            outcomes[one] = "being brewed"
        else:
            outcomes[one] = "taken"
            has[str(one.digest)] = one.rbtorrent_id
            used_ids.add(one.rbtorrent_id)
    return outcomes, set(by_digest)


def _update(connection: sa.Connection, tables: Tables, ids: Sequence[LegacyId], *, now: int) -> set[str]:
    """Write the ids of layers in the mapping. Return the digests of those that got theirs."""
    if not ids:
        return set()
    mapping = tables.mapping
    requested = _requested(connection, ids)
    free = sa.and_(
        mapping.c.rbtorrent_id.is_(None),
        sa.or_(mapping.c.brewed.is_not(None), mapping.c.brew_lock.is_(None)),
    )
    # Locked in the order of digests, as in every transaction.
    updated = connection.scalars(
        sa.select(mapping.c.digest)
        .join(requested, requested.c.digest == mapping.c.digest)
        .where(free)
        .order_by(mapping.c.digest)
        .with_for_update(of=mapping)
    ).all()
    connection.execute(
        sa.update(mapping)
        .where(mapping.c.digest == requested.c.digest, free)
        .values(rbtorrent_id=requested.c.rbtorrent_id, brewed=now)
    )
    # These ids have no brewer, whatever the earlier attempts (see sql/requeue.py).
    write_queue(connection, tables, updated, next_try=None, reason=None, claimed=None, brewer=None)
    return set(updated)


def _insert(connection: sa.Connection, tables: Tables, ids: Sequence[LegacyId], *, now: int) -> set[str]:
    """Insert layers with their ids into the mapping. Return the digests of those inserted."""
    if not ids:
        return set()
    requested = _requested(connection, sorted(ids, key=lambda one: str(one.digest)))
    when = sa.literal(now, sa.BigInteger)
    new = sa.select(requested.c.digest, requested.c.rbtorrent_id, when, when).where(sa.true())
    inserted = insert(connection, tables.mapping).from_select(
        ["digest", "rbtorrent_id", "added", "brewed"], new
    )
    return set(connection.scalars(inserted.on_conflict_do_nothing().returning(tables.mapping.c.digest)).all())


def _requested(connection: sa.Connection, ids: Sequence[LegacyId]) -> sa.Subquery:
    columns = {"digest": sa.Text(), "rbtorrent_id": sa.Text()}
    return bulk_values(connection, "requested", columns, ((str(one.digest), one.rbtorrent_id) for one in ids))
