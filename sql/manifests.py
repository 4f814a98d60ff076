"""Manifests whose layers are still unknown, and those that were resolved.

A manifest belongs to a scope: in two repositories there are two, each fetched from its own. They are few, and
reading one twice is harmless, so they are not locked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from core.digest import Digest
from sql.bulk_values import bulk_values, digest_values, insert
from sql.failures import one_line
from sql.tables import Priority, Tables


@dataclass(frozen=True, slots=True)
class DueManifest:
    """A manifest to resolve now, waiting since `added` (Unix seconds). `attempts` counts failed attempts."""

    scope: str
    digest: Digest
    priority: int
    added: int
    attempts: int


def enqueue_manifests(
    connection: sa.Connection,
    tables: Tables,
    manifests: Iterable[tuple[str, Digest]],
    *,
    priority: Priority,
    now: int,
) -> int:
    """Record manifests, as (scope, digest), to be resolved. Return how many were not waiting already.

    A waiting manifest may become more urgent. A delayed one is due now, and one that was set aside is
    retried: after a push it may exist now.
    """
    manifest = tables.manifest
    keys = {(scope, str(digest)) for scope, digest in manifests}
    if not keys:
        return 0
    requested = bulk_values(connection, "requested", {"scope": sa.Text(), "digest": sa.Text()}, keys)
    same = sa.and_(manifest.c.scope == requested.c.scope, manifest.c.digest == requested.c.digest)
    aside = manifest.c.next_try.is_(None)
    known = requested.outerjoin(manifest, same)
    unless_waiting = sa.or_(manifest.c.digest.is_(None), aside)
    count = connection.scalars(sa.select(sa.func.count()).select_from(known).where(unless_waiting)).one()
    new = insert(connection, manifest).from_select(
        ["scope", "digest", "priority", "added", "next_try"],
        sa.select(
            requested.c.scope,
            requested.c.digest,
            sa.literal(int(priority)),
            sa.literal(now, sa.BigInteger),
            sa.literal(now, sa.BigInteger),
        )
        .select_from(known)
        .where(sa.or_(unless_waiting, manifest.c.priority > priority, manifest.c.next_try > now))
        .order_by(requested.c.scope, requested.c.digest),
    )
    more_urgent = manifest.c.priority > new.excluded.priority
    connection.execute(
        new.on_conflict_do_update(
            index_elements=["scope", "digest"],
            set_={
                "priority": sa.case((more_urgent, new.excluded.priority), else_=manifest.c.priority),
                "attempts": sa.case((aside, 0), else_=manifest.c.attempts),
                # Its layers wait since this push, not since the one whose manifest could not be read.
                "added": sa.case((aside, new.excluded.added), else_=manifest.c.added),
                "next_try": sa.case(
                    (manifest.c.next_try <= new.excluded.next_try, manifest.c.next_try),
                    else_=new.excluded.next_try,
                ),
            },
        )
    )
    return count


def due_manifests(connection: sa.Connection, tables: Tables, *, now: int, limit: int) -> list[DueManifest]:
    """Return up to `limit` manifests that are due, the most urgent first, then those waiting longest."""
    manifest = tables.manifest
    rows = connection.execute(
        sa.select(
            manifest.c.scope, manifest.c.digest, manifest.c.priority, manifest.c.added, manifest.c.attempts
        )
        # Rows inserted by hand with a malformed digest must not take up the limit.
        .where(manifest.c.next_try <= now, manifest.c.digest.like(f"{Digest.PREFIX}%"))
        .where(sa.func.length(manifest.c.digest) == len(Digest.PREFIX) + 64)
        .order_by(manifest.c.priority, manifest.c.added)
        .limit(limit)
    )
    return [
        DueManifest(row.scope, digest, row.priority, row.added, row.attempts)
        for row in rows
        if (digest := Digest.parse_or_none(row.digest))
    ]


def finish_manifest(connection: sa.Connection, tables: Tables, scope: str, digest: Digest) -> bool:
    """Remove a manifest: it is resolved, or not needed. Return False if it did not exist."""
    finished = sa.delete(tables.manifest).where(_is_manifest(tables, scope, digest))
    return connection.execute(finished).rowcount == 1


def fail_manifest(
    connection: sa.Connection,
    tables: Tables,
    scope: str,
    digest: Digest,
    *,
    reason: str,
    next_try: int | None,
) -> bool:
    """Count a failure. Return False if the manifest is not there.

    It is retried from `next_try`, or set aside if that is None.
    """
    manifest = tables.manifest
    failed = (
        sa.update(manifest)
        .where(_is_manifest(tables, scope, digest))
        .values(attempts=manifest.c.attempts + 1, reason=one_line(connection, reason), next_try=next_try)
    )
    return connection.execute(failed).rowcount == 1


def count_waiting_manifests(connection: sa.Connection, tables: Tables) -> int:
    """Return how many manifests wait for an attempt."""
    manifest = tables.manifest
    waiting = sa.select(sa.func.count()).select_from(manifest).where(manifest.c.next_try.is_not(None))
    return connection.scalars(waiting).one()


def knows_manifest(connection: sa.Connection, tables: Tables, digest: Digest) -> bool:
    """Return whether the manifest `digest` waits or is set aside, in any repository."""
    manifest = tables.manifest
    known = sa.select(manifest.c.digest).where(manifest.c.digest == str(digest)).limit(1)
    return connection.scalars(known).first() is not None


def mark_seen(
    connection: sa.Connection,
    tables: Tables,
    scope: str,
    digests: Iterable[Digest],
    *,
    now: int,
    variant: str = "",
) -> None:
    """Record that these manifests of `scope` were resolved completely.

    `variant` distinguishes manifests that were read with different settings, such as for some platforms only.
    """
    rows = [
        {"scope": scope, "digest": name, "seen": now}
        for name in sorted(f"{digest}{variant}" for digest in set(digests))
    ]
    if not rows:
        return
    new = insert(connection, tables.seen).values(rows)
    connection.execute(
        new.on_conflict_do_update(index_elements=["scope", "digest"], set_={"seen": new.excluded.seen})
    )


def mark_new_seen(
    connection: sa.Connection, tables: Tables, manifests: Iterable[tuple[str, Digest]], *, now: int
) -> None:
    """Record that these manifests, as (scope, digest), were resolved completely, unless recorded before.

    One statement for any number of scopes.
    """
    seen = tables.seen
    keys = {(scope, str(digest)) for scope, digest in manifests}
    requested = bulk_values(connection, "requested", {"scope": sa.Text(), "digest": sa.Text()}, keys)
    same = sa.and_(seen.c.scope == requested.c.scope, seen.c.digest == requested.c.digest)
    new = (
        sa.select(requested.c.scope, requested.c.digest, sa.literal(now, sa.BigInteger))
        .select_from(requested.outerjoin(seen, same))
        .where(seen.c.digest.is_(None))
        .order_by(requested.c.scope, requested.c.digest)
    )
    remember = insert(connection, seen).from_select(["scope", "digest", "seen"], new)
    connection.execute(remember.on_conflict_do_nothing())


def seen_manifests(
    connection: sa.Connection, tables: Tables, scope: str, digests: Iterable[Digest], *, variant: str = ""
) -> set[Digest]:
    """Return those of these manifests of `scope` that were resolved completely, with this `variant`."""
    seen = tables.seen
    wanted = {f"{digest}{variant}": digest for digest in digests}
    found = connection.scalars(
        sa.select(seen.c.digest).where(
            seen.c.scope == scope, seen.c.digest.in_(digest_values(connection, wanted))
        )
    )
    return {wanted[name] for name in found}


def forget_seen(connection: sa.Connection, tables: Tables, *, older_than: int, limit: int) -> int:
    """Delete up to `limit` manifests that were resolved before the time `older_than`, the oldest first.

    The next scan reads them again. Return their number.
    """
    seen = tables.seen
    old = (
        sa.select(seen.c.scope, seen.c.digest)
        .where(seen.c.seen < older_than)
        .order_by(seen.c.seen)
        .limit(limit)
        .with_for_update(skip_locked=True)
        # A CTE, because it is executed once (see sql/claims.py).
        .cte("old")
    )
    is_old = sa.tuple_(seen.c.scope, seen.c.digest).in_(sa.select(old.c.scope, old.c.digest))
    return len(connection.scalars(sa.delete(seen).where(is_old).returning(seen.c.digest)).all())


def _is_manifest(tables: Tables, scope: str, digest: Digest) -> sa.ColumnElement[bool]:
    return sa.and_(tables.manifest.c.scope == scope, tables.manifest.c.digest == str(digest))
