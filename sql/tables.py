"""The tables: the original mapping, further ones of this service, and read-only ones of others."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import sqlalchemy as sa

# `next_try` of a layer that may be claimed at once. It is never a bound parameter: SQLite uses a partial
# index only if the statement contains the index's constant.
AT_ONCE = sa.literal_column("0", sa.BigInteger)

OPTIONAL = {"optional": True}
"""Marks an optional table, which an older version did not create."""

# A row of the queue changes a few times, and its dead versions are at the head of the index that claiming
# reads. So they are vacuumed early, also from the indexes.
_VACUUM_EARLY = {
    "autovacuum_vacuum_scale_factor": "0.01",
    "autovacuum_vacuum_threshold": "5000",
    "vacuum_index_cleanup": "on",
}


class Priority(IntEnum):
    """Why a layer is in the queue. The lowest is brewed first."""

    ASKED = 0
    PUSHED = 1
    SCANNED = 2
    BACKFILLED = 3


@dataclass(frozen=True, eq=False)
class Tables:
    """The tables of one installation. `old`, `mfs` and `mds` belong to others and are only read."""

    metadata: sa.MetaData
    mapping: sa.Table
    queue: sa.Table
    scope: sa.Table
    role: sa.Table
    manifest: sa.Table
    seen: sa.Table
    missing: sa.Table
    cursor: sa.Table
    failure: sa.Table
    job_run: sa.Table
    history: sa.Table
    old: sa.Table
    mfs: sa.Table
    mds: sa.Table


def build_tables(
    mapping: str = "rbtorrent_mapping",
    old: str = "mds_keys_to_rbtorrents_mapping",
    mfs: str = "mfs",
    mds: str = "mds",
) -> Tables:
    """Return the tables under these names. Names derive from `mapping`, so installations can share a
    database.

    The configuration admits no names but plain ones that are short enough (core/config/database.py).
    """
    ours, theirs = sa.MetaData(), sa.MetaData()
    return Tables(
        metadata=ours,
        mapping=_mapping(mapping, ours),
        queue=_queue(f"{mapping}_queue", ours),
        scope=_scope(f"{mapping}_scope", ours),
        role=_role(f"{mapping}_role", ours),
        manifest=_manifest(f"{mapping}_manifest", ours),
        seen=_seen(f"{mapping}_seen", ours),
        missing=_missing(f"{mapping}_gone", ours),
        cursor=_cursor(f"{mapping}_place", ours),
        failure=_failure(f"{mapping}_failure", ours),
        job_run=_job_run(f"{mapping}_job_run", ours),
        history=_history(f"{mapping}_history", ours),
        old=sa.Table(old, theirs, sa.Column("mds_key", sa.Text), sa.Column("rbtorrent_id", sa.Text)),
        mfs=_mfs(mfs, theirs),
        mds=_mds(mds, theirs),
    )


def _mapping(name: str, metadata: sa.MetaData) -> sa.Table:
    """The original table, unchanged, with one more index: the unbrewed rows."""
    table = sa.Table(
        name,
        metadata,
        sa.Column("digest", sa.String(128), primary_key=True),  # sha256:<hex>
        sa.Column("rbtorrent_id", sa.String(64)),
        sa.Column("added", sa.BigInteger),
        sa.Column("brew_lock", sa.BigInteger),  # since when, and the fencing token; NULL: not locked
        sa.Column("brewed", sa.BigInteger),  # NULL: not brewed
    )
    sa.Index(f"{name}_rbtorrent_idx", table.c.rbtorrent_id, unique=True)
    sa.Index(f"{name}_added_sort", table.c.added)
    sa.Index(f"{name}_brew_lock_compare", table.c.brew_lock)
    _partial(f"{name}_brew_lock_null", table.c.brew_lock, where=table.c.brew_lock.is_not(None))
    _partial(f"{name}_brewed_null", table.c.brewed, where=table.c.brewed.is_not(None))
    _partial(f"{name}_waiting", table.c.added, where=table.c.brewed.is_(None))
    return table


def _queue(name: str, metadata: sa.MetaData) -> sa.Table:
    """Further columns of a layer. The row stays when the layer is brewed.

    `next_try` 0: claimable; a time: not before then; NULL: never, as the layer is brewed, or set aside if
    there is a `reason`. `claimed` is NULL unless a brewer holds the lock. `brewer` is NULL if no brewer ever
    did: a brewed layer without one was not brewed here.
    """
    table = sa.Table(
        name,
        metadata,
        sa.Column("digest", sa.String(128), primary_key=True),
        sa.Column("size", sa.BigInteger),  # bytes; NULL: unknown
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("added", sa.BigInteger, nullable=False),
        sa.Column("next_try", sa.BigInteger),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("reason", sa.Text),  # why the last attempt failed
        sa.Column("brewer", sa.String(255)),  # the last holder of the lock
        sa.Column("claimed", sa.BigInteger),  # since when
        postgresql_with=_VACUUM_EARLY,
    )
    _partial(f"{name}_waiting", table.c.priority, table.c.added, where=table.c.next_try == AT_ONCE)
    _partial(f"{name}_delayed", table.c.next_try, where=table.c.next_try > AT_ONCE)
    _partial(f"{name}_aside", table.c.digest, where=is_set_aside(table))
    return table


def is_locked(mapping: sa.Table) -> sa.ColumnElement[bool]:
    """Return whether a row of the mapping is locked by a brewer."""
    return sa.and_(mapping.c.brew_lock.is_not(None), mapping.c.brewed.is_(None))


def is_set_aside(table: sa.Table) -> sa.ColumnElement[bool]:
    """Return whether a row of the queue, or of the manifests, is set aside."""
    return sa.and_(table.c.next_try.is_(None), table.c.reason.is_not(None))


def _scope(name: str, metadata: sa.MetaData) -> sa.Table:
    """The repositories known to hold a layer."""
    table = sa.Table(
        name,
        metadata,
        sa.Column("digest", sa.String(128), primary_key=True),
        sa.Column("scope", sa.String(255), primary_key=True),
        sqlite_with_rowid=False,
    )
    sa.Index(f"{name}_scope", table.c.scope)
    return table


def _role(name: str, metadata: sa.MetaData) -> sa.Table:
    """Scopes, or globs over them, that have the rbtorrent role."""
    return sa.Table(
        name,
        metadata,
        sa.Column("pattern", sa.String(255), primary_key=True),
        sa.Column("granted", sa.BigInteger, nullable=False),
    )


def _manifest(name: str, metadata: sa.MetaData) -> sa.Table:
    """Manifests whose layers are still unknown. `next_try` NULL: set aside."""
    table = sa.Table(
        name,
        metadata,
        sa.Column("scope", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(128), primary_key=True),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("added", sa.BigInteger, nullable=False),
        sa.Column("next_try", sa.BigInteger),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("reason", sa.Text),
    )
    _partial(f"{name}_due", table.c.priority, table.c.added, where=table.c.next_try.is_not(None))
    _partial(f"{name}_aside", table.c.digest, where=is_set_aside(table))
    return table


def _seen(name: str, metadata: sa.MetaData) -> sa.Table:
    """Manifests that were resolved completely, so that a scan need not fetch them again."""
    table = sa.Table(
        name,
        metadata,
        sa.Column("scope", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(128), primary_key=True),
        sa.Column("seen", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    sa.Index(f"{name}_seen", table.c.seen)
    return table


def _missing(name: str, metadata: sa.MetaData) -> sa.Table:
    """Layers that may be missing from the registry, until this is certain.

    `missed` is when a layer was first not found; NULL: only reported as deleted. `due` is when to check.
    """
    table = sa.Table(
        name,
        metadata,
        sa.Column("digest", sa.String(128), primary_key=True),
        sa.Column("missed", sa.BigInteger),
        sa.Column("due", sa.BigInteger, nullable=False),
    )
    sa.Index(f"{name}_due", table.c.due)
    return table


def _cursor(name: str, metadata: sa.MetaData) -> sa.Table:
    """The position of a job that walks the tables in rounds."""
    return sa.Table(
        name,
        metadata,
        sa.Column("job", sa.String(64), primary_key=True),
        sa.Column("place", sa.String(255), nullable=False),
    )


def _failure(name: str, metadata: sa.MetaData) -> sa.Table:
    """The last failure of each layer in the last seven days (sql/failures.py)."""
    table = sa.Table(
        name,
        metadata,
        sa.Column("digest", sa.String(128), primary_key=True),
        sa.Column("failed", sa.BigInteger, nullable=False),
        info=OPTIONAL,
    )
    sa.Index(f"{name}_failed", table.c.failed)
    return table


def _job_run(name: str, metadata: sa.MetaData) -> sa.Table:
    """The last run of each job, for operators."""
    return sa.Table(
        name,
        metadata,
        sa.Column("job", sa.String(64), primary_key=True),
        sa.Column("started", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Float, nullable=False),  # so far, if it is running
        sa.Column("outcome", sa.String(16), nullable=False),  # done, failed, running
        sa.Column("reason", sa.Text),  # its summary, or why it failed
        info=OPTIONAL,
    )


def _history(name: str, metadata: sa.MetaData) -> sa.Table:
    """A row a minute: the queue at that time, and the work of all brewers in that minute."""
    return sa.Table(
        name,
        metadata,
        sa.Column("minute", sa.BigInteger, primary_key=True, autoincrement=False),  # Unix time of its start
        sa.Column("waiting", sa.BigInteger, nullable=False),
        sa.Column("locked", sa.BigInteger, nullable=False),
        sa.Column("set_aside", sa.BigInteger, nullable=False),
        sa.Column("brewed", sa.BigInteger, nullable=False),  # layers
        sa.Column("bytes", sa.BigInteger, nullable=False),  # of the brewed layers
        sa.Column("failed", sa.BigInteger, nullable=False),  # failed attempts
        info=OPTIONAL,
    )


def _mfs(name: str, metadata: sa.MetaData) -> sa.Table:
    """The files of the registry's MDS driver (noxiouz/docker-distribution-postgresql)."""
    return sa.Table(
        name,
        metadata,
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("parent", sa.Text),
        sa.Column("dir", sa.Boolean),
        sa.Column("size", sa.BigInteger),
        sa.Column("modtime", sa.DateTime),
        sa.Column("key", sa.Text),
        sa.Column("owner", sa.Text),
    )


def _mds(name: str, metadata: sa.MetaData) -> sa.Table:
    """The place of each file's bytes in MDS. `mdsfileinfo` is JSON: key, size, id."""
    return sa.Table(
        name,
        metadata,
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("mdsfileinfo", sa.Text),
        sa.Column("deleted", sa.Boolean),
    )


def _partial(name: str, *columns: sa.Column[int], where: sa.ColumnElement[bool]) -> None:
    sa.Index(name, *columns, postgresql_where=where, sqlite_where=where)
