"""Claims on layers: claim, renew, complete, fail, and return.

A lock is the time in `brew_lock`, which is also the fencing token: its holder can write only while the row
still has that time. The token of a brewer that was away for too long has been replaced, so it writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import sqlalchemy as sa

from core.digest import Digest
from core.errors import InvalidName, RbtorrentIdTaken
from core.layer import Layer
from sql.bulk_values import BulkParameter, digest_values
from sql.failures import forget_failure, one_line, record_failures
from sql.tables import AT_ONCE, Tables

log = logging.getLogger(__name__)

# How many delayed layers become claimable with one claim.
_DUE_AT_A_TIME = 1_000

_MALFORMED = "the digest is malformed: expected sha256: and 64 hex digits"

_LOCKED = BulkParameter("locked", {"digest": sa.Text()})


@dataclass(frozen=True, slots=True)
class Claim:
    """A layer locked by this brewer, in the queue since `added` (Unix seconds). `attempts` counts failed
    attempts, `token` is the lock.
    """

    layer: Layer
    priority: int
    added: int
    attempts: int
    token: int

    @property
    def digest(self) -> Digest:
        """The layer's digest."""
        return self.layer.digest


def claim_layers(
    connection: sa.Connection, tables: Tables, *, now: int, limit: int, brewer: str
) -> list[Claim]:
    """Lock up to `limit` unlocked layers, the most urgent and then the oldest first.

    Layers that another brewer is claiming at the same time are skipped. Rows whose digest is not SHA-256 are
    set aside. `brewer` names this brewer to operators.
    """
    dialect = connection.dialect.name
    statements = _claim_statements(tables, dialect)
    connection.execute(statements.make_due, {"at": now})
    claims: list[Claim] = []
    while len(claims) < limit:
        locked = connection.scalars(statements.lock, {"at": now, "at_most": limit - len(claims)}).all()
        if not locked:
            break
        these = _LOCKED.parameters(dialect, [(digest,) for digest in locked])
        rows = connection.execute(statements.record_brewer, {"at": now, "brewer_name": brewer, **these}).all()
        holding = groupby(connection.execute(statements.scopes, these), lambda row: row.digest)
        scopes = {digest: tuple(row.scope for row in group) for digest, group in holding}
        malformed: list[str] = []
        for row in sorted(rows, key=lambda row: (row.priority, row.added, row.digest)):
            try:
                layer = Layer(Digest.parse(row.digest), scopes.get(row.digest, ()), row.size)
            except InvalidName:
                malformed.append(row.digest)
            else:
                claims.append(Claim(layer, row.priority, row.added, row.attempts, now))
        _set_aside_malformed(connection, tables, malformed, now)
        if not malformed:
            break
    return claims


def _set_aside_malformed(connection: sa.Connection, tables: Tables, digests: Sequence[str], now: int) -> None:
    """Unlock these rows and set them aside: no registry has such a blob."""
    if not digests:
        return
    mapping, attempts = tables.mapping, tables.queue.c.attempts + 1
    these = mapping.c.digest.in_(digest_values(connection, digests))
    connection.execute(sa.update(mapping).where(these).values(brew_lock=None))
    write_queue(
        connection, tables, digests, attempts=attempts, reason=_MALFORMED, next_try=None, claimed=None
    )
    record_failures(connection, tables, digests, now=now)
    for digest in digests:
        log.warning("layer set aside digest=%.100r reason=%s", digest, _MALFORMED)


class _ClaimStatements(NamedTuple):
    """The statements of a claim, in order."""

    make_due: sa.Update
    lock: sa.Update
    record_brewer: sa.Update
    scopes: sa.Select[str, str]


@lru_cache
def _claim_statements(tables: Tables, dialect: str) -> _ClaimStatements:
    mapping, queue, scope = tables.mapping, tables.queue, tables.scope
    now = sa.bindparam("at", type_=sa.BigInteger)
    # Delayed layers are kept apart until they are due: the head of the queue stays short when
    # thousands wait for a retry.
    due = (
        sa.select(queue.c.digest)
        .where(queue.c.next_try > AT_ONCE, queue.c.next_try <= now)
        .order_by(queue.c.next_try)
        .limit(_DUE_AT_A_TIME)
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    # The claim reads the head of the queue's index and looks each row up in the mapping. Written as one
    # comparison with a constant, "neither brewed nor locked" keeps the planner to that: it expects two
    # IS NULL to hold for few rows, and would sort all waiting rows.
    free = sa.func.coalesce(mapping.c.brewed, mapping.c.brew_lock, sa.literal_column("-1")) < 0
    picked = (
        sa.select(mapping.c.digest)
        .join_from(queue, mapping, mapping.c.digest == queue.c.digest)
        .where(queue.c.next_try == AT_ONCE, free)
        .order_by(queue.c.priority, queue.c.added)
        .limit(sa.bindparam("at_most", type_=sa.Integer))
        .with_for_update(skip_locked=True)
        # A CTE: it is executed once. A plain subquery may run inside a loop, where it picks other rows
        # each time and the limit has no effect.
        .cte("picked")
    )
    locked = sa.select(_LOCKED.relation(dialect).c.digest)
    return _ClaimStatements(
        make_due=sa.update(queue).where(queue.c.digest.in_(sa.select(due.c.digest))).values(next_try=AT_ONCE),
        lock=sa.update(mapping)
        .where(mapping.c.digest.in_(sa.select(picked.c.digest)))
        .values(brew_lock=now)
        .returning(mapping.c.digest),
        record_brewer=sa.update(queue)
        .where(queue.c.digest.in_(locked))
        .values(brewer=sa.bindparam("brewer_name", type_=sa.String), claimed=now)
        .returning(queue.c.digest, queue.c.size, queue.c.priority, queue.c.attempts, queue.c.added),
        scopes=sa.select(scope.c.digest, scope.c.scope)
        .where(scope.c.digest.in_(locked))
        .order_by(scope.c.digest, scope.c.scope),
    )


def renew_locks(
    connection: sa.Connection, tables: Tables, claims: Sequence[Claim], *, now: int
) -> list[Claim]:
    """Renew the locks as of `now`. Return the claims still held, with their new token."""
    held = set(_replace_locks(connection, tables, claims, lock=now))
    return [replace(claim, token=now) for claim in claims if str(claim.digest) in held]


def return_layers(connection: sa.Connection, tables: Tables, claims: Sequence[Claim]) -> int:
    """Unlock layers that were not finished, as if they had never been claimed. Return their number."""
    freed = _replace_locks(connection, tables, claims, lock=None)
    write_queue(connection, tables, freed, claimed=None)
    return len(freed)


def complete_layer(
    connection: sa.Connection, tables: Tables, claim: Claim, *, rbtorrent_id: str, size: int, now: int
) -> bool:
    """Mark the layer brewed, with its id and its size in bytes. Return False if the lock was lost.

    Nothing is written if the lock was lost. Raises RbtorrentIdTaken; the transaction must then be rolled
    back.
    """
    statements = _complete_statements(tables)
    values = {"this": str(claim.digest), "token": claim.token, "id": rbtorrent_id, "at": now}
    try:
        done = connection.execute(statements.mark_brewed, values).rowcount == 1
    except sa.exc.IntegrityError as error:
        raise RbtorrentIdTaken(
            f"{rbtorrent_id} of {claim.digest} belongs to another layer already"
        ) from error
    if done:
        connection.execute(statements.dequeue, {"this": str(claim.digest), "bytes": size})
        if claim.attempts:
            forget_failure(connection, tables, claim.digest)
    return done


class _CompleteStatements(NamedTuple):
    """The statements that complete a layer. Built once: building them takes longer than running them."""

    mark_brewed: sa.Update
    dequeue: sa.Update


@lru_cache
def _complete_statements(tables: Tables) -> _CompleteStatements:
    mapping, queue = tables.mapping, tables.queue
    this = sa.bindparam("this", type_=sa.String)
    return _CompleteStatements(
        mark_brewed=sa.update(mapping)
        .where(
            mapping.c.digest == this,
            mapping.c.brew_lock == sa.bindparam("token", type_=sa.BigInteger),
            mapping.c.brewed.is_(None),
        )
        .values(
            brew_lock=None,
            rbtorrent_id=sa.bindparam("id", type_=sa.String),
            brewed=sa.bindparam("at", type_=sa.BigInteger),
        ),
        dequeue=sa.update(queue)
        .where(queue.c.digest == this)
        .values(next_try=None, reason=None, size=sa.bindparam("bytes", type_=sa.BigInteger), claimed=None),
    )


def fail_layer(
    connection: sa.Connection,
    tables: Tables,
    claim: Claim,
    *,
    reason: str,
    next_try: int | None,
    now: int,
    forget_size: bool = False,
) -> bool:
    """Count the failure. Return False, with nothing written, if the lock was lost.

    The layer is retried from `next_try`; if that is None, it is set aside until an operator retries it.
    `forget_size` clears the size that a descriptor gave for it.
    """
    if not _replace_locks(connection, tables, [claim], lock=None):
        return False
    write_queue(
        connection,
        tables,
        [claim.digest],
        attempts=tables.queue.c.attempts + 1,
        reason=one_line(connection, reason),
        next_try=None if next_try is None else max(next_try, 0),
        claimed=None,
        **({"size": None} if forget_size else {}),
    )
    record_failures(connection, tables, [claim.digest], now=now)
    return True


def _replace_locks(
    connection: sa.Connection, tables: Tables, claims: Sequence[Claim], *, lock: int | None
) -> list[str]:
    """Write `lock` over the tokens of the claims that are still held. Return their digests."""
    mapping = tables.mapping
    held: list[str] = []
    # The claims of a chunk nearly always have the same token.
    for token in sorted({claim.token for claim in claims}):
        digests = [claim.digest for claim in claims if claim.token == token]
        ours = (
            sa.select(mapping.c.digest)
            .where(
                mapping.c.digest.in_(digest_values(connection, digests)),
                mapping.c.brew_lock == token,
                mapping.c.brewed.is_(None),
            )
            .order_by(mapping.c.digest)
            .with_for_update()
            .cte("ours")
        )
        held += connection.scalars(
            sa.update(mapping)
            .where(mapping.c.digest.in_(sa.select(ours.c.digest)))
            .values(brew_lock=lock)
            .returning(mapping.c.digest)
        )
    return held


def write_queue(
    connection: sa.Connection, tables: Tables, digests: Sequence[Digest | str], **values: object
) -> None:
    """Write `values` to the queue's rows of `digests`, locked in the order of their digests."""
    queue = tables.queue
    if not digests:
        return
    these = queue.c.digest.in_(digest_values(connection, digests))
    if len(digests) > 1:
        in_order = sa.select(queue.c.digest).where(these).order_by(queue.c.digest).with_for_update()
        connection.execute(in_order).all()
    connection.execute(sa.update(queue).where(these).values(**values))
