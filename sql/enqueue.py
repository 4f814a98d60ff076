"""Put layers into the queue: on request, and those that other programs wrote into the mapping."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import sqlalchemy as sa

from core.errors import LayersDropped
from core.layer import Layer
from sql.bulk_values import BulkParameter, digest_values, insert, insert_for
from sql.missing_layers import clear_suspects
from sql.tables import AT_ONCE, Priority, Tables, is_set_aside

# Rows in one statement.
_BATCH = 5_000
# How many rows at the head of the queue are checked for strays at a time.
_HEAD = 1_000

_REQUESTED = BulkParameter("requested", {"digest": sa.Text(), "size": sa.BigInteger()})
_HELD = BulkParameter("held", {"digest": sa.Text(), "scope": sa.Text()})


def enqueue_layers(
    connection: sa.Connection,
    tables: Tables,
    layers: Sequence[Layer],
    *,
    priority: Priority,
    now: int,
    malformed: Sequence[tuple[str, str]] = (),
) -> int:
    """Queue the layers that are neither brewed nor queued. Return how many were queued.

    For the others: a waiting layer may become more urgent, never less; an unknown size is filled in; each
    scope is recorded. A layer that was set aside returns to the queue with all its attempts, and one that
    waits for its next attempt is due, as the blob may exist now; a mere request (Priority.ASKED) does not
    prove that and changes neither. If nothing is new, nothing is written. A layer suspected to be missing is
    cleared.

    `malformed` are (digest, scope) of layers whose digest is not SHA-256: claiming sets them aside, where
    operators see them.

    Raises LayersDropped, a DatabaseDown, if a layer is dropped at the same moment.

    Rows are locked in the order of their digests, so two callers never deadlock. That holds for one call of
    up to 5,000 layers in a transaction.
    """
    sizes: dict[str, int | None] = {}
    pairs: dict[str, set[str]] = {}
    for digest, scope in malformed:
        sizes[digest] = None
        pairs.setdefault(digest, set()).add(scope)
    for layer in layers:
        name = str(layer.digest)
        sizes[name] = layer.size if layer.size is not None else sizes.get(name)
        pairs.setdefault(name, set()).update(layer.scopes)
    dialect = connection.dialect.name
    digests = sorted(sizes)
    queued = 0
    for start in range(0, len(digests), _BATCH):
        batch = digests[start : start + _BATCH]
        held = [(digest, scope) for digest in batch for scope in sorted(pairs[digest])]
        parameters = {
            "at": now,
            "urgency": int(priority),
            **_REQUESTED.parameters(dialect, [(digest, sizes[digest]) for digest in batch]),
            **_HELD.parameters(dialect, held),
        }
        new, suspects, unmapped = _enqueue(connection, tables, parameters)
        queued += new
        if suspects:
            # They may be about to be removed. Wait for their rows, and queue deleted ones again.
            clear_suspects(connection, tables, batch)
            queued += _enqueue(connection, tables, parameters)[0]
        elif unmapped > 0 and _any_dropped(connection, tables, batch):
            # Inserting them now would lock rows out of order.
            raise LayersDropped("layers were dropped while they were being queued: try again")
    return queued


def _enqueue(
    connection: sa.Connection, tables: Tables, parameters: dict[str, object]
) -> tuple[int, int, int]:
    """Write one batch. Return the counts of `_enqueue_statements`."""
    counting, writing = _enqueue_statements(tables, connection.dialect.name)
    new, suspects, unmapped = connection.execute(counting, parameters).one()
    for statement in writing:
        connection.execute(statement, parameters)
    return new, suspects, unmapped


def _any_dropped(connection: sa.Connection, tables: Tables, digests: Sequence[str]) -> bool:
    """Return whether some layers are not in the mapping: another transaction dropped them, and committed
    after the statement that queued them had started.
    """
    mapping = tables.mapping
    present = sa.select(sa.func.count()).where(mapping.c.digest.in_(digest_values(connection, digests)))
    return connection.scalars(present.select_from(mapping)).one() < len(digests)


@lru_cache
def _enqueue_statements(tables: Tables, dialect: str) -> tuple[sa.Select[int, int, int], list[sa.Insert]]:
    """Return the statement that counts new layers (and on PostgreSQL writes), and those that write.

    It also counts suspects, and how many more layers were inserted into the queue than into the mapping.
    """
    mapping, queue, scope, missing = tables.mapping, tables.queue, tables.scope, tables.missing
    requested, held = _REQUESTED.relation(dialect), _HELD.relation(dialect)
    now, urgency = sa.bindparam("at", type_=sa.BigInteger), sa.bindparam("urgency", type_=sa.SmallInteger)
    unbrewed, waits = mapping.c.brewed.is_(None), queue.c.next_try.is_not(None)
    found = urgency > int(Priority.ASKED)
    returns, hastens = sa.and_(is_set_aside(queue), found), sa.and_(queue.c.next_try > AT_ONCE, found)
    known = requested.outerjoin(mapping, mapping.c.digest == requested.c.digest).outerjoin(
        queue, queue.c.digest == requested.c.digest
    )

    insert_mapping = (
        insert_for(dialect, mapping)
        .from_select(
            ["digest", "added"],
            sa.select(requested.c.digest, now)
            .select_from(known)
            .where(mapping.c.digest.is_(None))
            .order_by(requested.c.digest),
        )
        .on_conflict_do_nothing()
    )
    if dialect == "postgresql":
        # There all are parts of one statement, and a part runs when another one reads it. The insert into the
        # queue reads this one, so that the mapping's rows are locked first, as in every transaction.
        mapped = insert_mapping.returning(mapping.c.digest).cte("mapped")
        known = known.join(sa.select(sa.func.count()).select_from(mapped).subquery("first"), sa.true())
    # Rows that ON CONFLICT would not change are left out: a conflict takes a lock, which is a write.
    insert_queue = insert_for(dialect, queue).from_select(
        ["digest", "size", "priority", "added", "next_try"],
        sa.select(
            requested.c.digest, requested.c.size, urgency, sa.func.coalesce(mapping.c.added, now), AT_ONCE
        )
        .select_from(known)
        .where(
            unbrewed,
            sa.or_(
                queue.c.digest.is_(None),
                returns,
                hastens,
                sa.and_(waits, queue.c.priority > urgency),
                sa.and_(queue.c.size.is_(None), requested.c.size.is_not(None)),
            ),
        )
        .order_by(requested.c.digest),
    )
    more_urgent = sa.and_(waits, queue.c.priority > insert_queue.excluded.priority)
    insert_queue = insert_queue.on_conflict_do_update(
        index_elements=["digest"],
        set_={
            "priority": sa.case(
                (sa.or_(returns, more_urgent), insert_queue.excluded.priority), else_=queue.c.priority
            ),
            "next_try": sa.case((sa.or_(returns, hastens), AT_ONCE), else_=queue.c.next_try),
            "attempts": sa.case((returns, 0), else_=queue.c.attempts),
            "size": sa.func.coalesce(queue.c.size, insert_queue.excluded.size),
        },
    )
    insert_scopes = (
        insert_for(dialect, scope)
        .from_select(
            ["digest", "scope"],
            sa.select(held.c.digest, held.c.scope)
            .outerjoin(scope, sa.and_(scope.c.digest == held.c.digest, scope.c.scope == held.c.scope))
            .where(scope.c.digest.is_(None))
            .order_by(held.c.digest, held.c.scope),
        )
        .on_conflict_do_nothing()
    )
    suspects = (
        sa.select(sa.func.count())
        .select_from(requested.join(missing, missing.c.digest == requested.c.digest))
        .scalar_subquery()
    )
    if dialect == "postgresql":
        # One statement. Its parts see one snapshot, not each other's rows, and they write different tables.
        # A row that ON CONFLICT updated has an xmax, an inserted one has none.
        is_new = sa.literal_column("xmax = 0", sa.Boolean).label("is_new")
        queued = insert_queue.returning(is_new).cte("queued")
        number_mapped = sa.select(sa.func.count()).select_from(mapped).scalar_subquery()
        new = (
            sa.select(sa.func.count(), suspects, sa.func.count() - number_mapped)
            .select_from(queued)
            .where(queued.c.is_new)
        )
        return new.add_cte(insert_scopes.cte("held_now")), []
    # SQLite has one writer at a time, so rows that are new before the write will be written.
    new = (
        sa.select(sa.func.count(), suspects, sa.literal(0))
        .select_from(known)
        .where(unbrewed, queue.c.digest.is_(None))
    )
    return new, [insert_mapping, insert_scopes, insert_queue]


def adopt_layers(connection: sa.Connection, tables: Tables, *, now: int, limit: int) -> int:
    """Align the queue with a mapping that other programs write too. Return how many layers were queued.

    Up to `limit` unbrewed rows of the mapping that the queue does not have, or has as brewed, are queued as
    backfilled, with the row's own `added`. Layers that were brewed or deleted only in the mapping are
    removed from the queue's head. This reads every unbrewed row, a second or two for a million, so call it
    when a claim finds the queue empty.
    """
    mapping, queue = tables.mapping, tables.queue
    # Neither waiting nor set aside: it was brewed, and its row was reset by hand.
    done = sa.and_(queue.c.next_try.is_(None), queue.c.reason.is_(None))
    unknown = (
        sa.select(mapping.c.digest, mapping.c.added)
        .outerjoin(queue, queue.c.digest == mapping.c.digest)
        .where(mapping.c.brewed.is_(None), sa.or_(queue.c.digest.is_(None), done))
        .cte("unknown")
        # There are usually none, so the planner must not expect to find some quickly.
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    some = sa.select(unknown.c.digest, unknown.c.added).limit(limit).subquery("some")
    adopted = connection.scalars(
        insert(connection, queue)
        .from_select(
            ["digest", "priority", "added", "next_try"],
            sa.select(
                some.c.digest,
                sa.literal(int(Priority.BACKFILLED)),
                sa.func.coalesce(some.c.added, sa.literal(now, sa.BigInteger)),
                AT_ONCE,
            )
            .where(sa.true())  # so that SQLite does not take ON CONFLICT for a join's ON
            .order_by(some.c.digest),
        )
        .on_conflict_do_update(
            index_elements=["digest"], set_={"next_try": AT_ONCE, "attempts": 0}, where=done
        )
        .returning(queue.c.digest)
    ).all()
    while _drop_strays(connection, tables):
        pass
    return len(adopted)


def _drop_strays(connection: sa.Connection, tables: Tables) -> int:
    """Remove rows from the head of the queue that no claim would ever take. Return how many."""
    mapping, queue = tables.mapping, tables.queue
    head = (
        sa.select(queue.c.digest)
        .where(queue.c.next_try == AT_ONCE)
        .order_by(queue.c.priority, queue.c.added)
        .limit(_HEAD)
        .subquery("head")
    )
    strays = (
        sa.select(queue.c.digest)
        .join_from(head, queue, queue.c.digest == head.c.digest)
        .outerjoin(mapping, mapping.c.digest == head.c.digest)
        .where(queue.c.next_try == AT_ONCE, sa.or_(mapping.c.digest.is_(None), mapping.c.brewed.is_not(None)))
        .with_for_update(of=queue, skip_locked=True)
        .cte("strays")
    )
    drop = sa.delete(queue).where(queue.c.digest.in_(sa.select(strays.c.digest))).returning(queue.c.digest)
    return len(connection.scalars(drop).all())
