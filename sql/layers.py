"""Look up layers: their rbtorrent ids, everything known about one, and all of them page by page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import sqlalchemy as sa

from core.digest import Digest
from core.manifests.coverage import NOT_BREWABLE, Coverage, ImageContents, ImageLayer
from core.manifests.manifest import LayerDescriptor
from sql.bulk_values import BulkParameter, digest_values
from sql.scopes import MAX_SCOPES
from sql.tables import Tables

State = Literal["brewed", "being brewed", "waiting", "delayed", "set aside"]

_WANTED = BulkParameter("wanted", {"digest": sa.Text()})


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """Everything that the database has on one layer. Times are Unix seconds, `size` is in bytes.

    `reason` is why its last attempt failed; `brewer` is the last holder of its lock. `scopes` are the
    first MAX_SCOPES by name; `more_scopes` is True if there are more.
    """

    digest: Digest
    state: State
    rbtorrent_id: str | None
    size: int | None
    scopes: tuple[str, ...]
    priority: int | None
    added: int | None
    locked: int | None
    brewed: int | None
    next_try: int | None
    attempts: int
    reason: str | None
    brewer: str | None
    claimed: int | None
    more_scopes: bool = False


def find_rbtorrent_ids(
    connection: sa.Connection, tables: Tables, digests: Iterable[Digest]
) -> dict[Digest, str]:
    """Return the ids of those of the layers that are brewed."""
    dialect = connection.dialect.name
    wanted = {str(digest): digest for digest in digests}
    these = _WANTED.parameters(dialect, [(name,) for name in wanted])
    rows = connection.execute(_ids_statement(tables, dialect), these)
    return {wanted[row.digest]: row.rbtorrent_id for row in rows}


@lru_cache
def _ids_statement(tables: Tables, dialect: str) -> sa.Select[str, str]:
    mapping = tables.mapping
    return sa.select(mapping.c.digest, mapping.c.rbtorrent_id).where(
        mapping.c.digest.in_(sa.select(_WANTED.relation(dialect).c.digest)),
        mapping.c.brewed.is_not(None),
        mapping.c.rbtorrent_id.is_not(None),
    )


def known_layers(connection: sa.Connection, tables: Tables, digests: Iterable[Digest]) -> set[Digest]:
    """Return those of the layers that are brewed, queued or set aside."""
    wanted = {str(digest): digest for digest in digests}
    digest = tables.mapping.c.digest
    found = connection.scalars(sa.select(digest).where(digest.in_(digest_values(connection, wanted))))
    return {wanted[name] for name in found}


def newest_brewed(connection: sa.Connection, tables: Tables) -> Digest | None:
    """Return the layer that was brewed last, None if no layer is brewed."""
    mapping = tables.mapping
    newest = (
        sa.select(mapping.c.digest)
        .where(mapping.c.brewed.is_not(None), mapping.c.rbtorrent_id.is_not(None))
        .order_by(mapping.c.brewed.desc())
        .limit(1)
    )
    return Digest.parse_or_none(connection.scalars(newest).first())


def mapping_page(tables: Tables, *, after: str, limit: int) -> sa.Subquery:
    """Return the next `limit` rows of the mapping, by digest, to join with the queue.

    A subquery: joined directly, the queue would be read from its beginning.
    """
    mapping = tables.mapping
    rows = sa.select(mapping).where(mapping.c.digest > after).order_by(mapping.c.digest).limit(limit)
    return rows.subquery("page")


def list_scopes(connection: sa.Connection, tables: Tables) -> list[str]:
    """Return all repositories known to hold a layer, by name."""
    scope = tables.scope.c.scope
    # From each name to the next in the index: a repository may have a million rows there.
    walk = sa.select(sa.func.min(scope).label("scope")).cte("walk", recursive=True)
    after = sa.select(sa.func.min(scope)).where(scope > walk.c.scope).scalar_subquery()
    walk = walk.union_all(sa.select(after).where(walk.c.scope.is_not(None)))
    return sorted(connection.scalars(sa.select(walk.c.scope).where(walk.c.scope.is_not(None))))


def find_layers(
    connection: sa.Connection, tables: Tables, digests: Iterable[Digest], *, now: int
) -> dict[Digest, LayerRecord]:
    """Return the records of those of the layers that are in the mapping, without their repositories."""
    mapping, queue = tables.mapping, tables.queue
    wanted = {str(digest): digest for digest in digests}
    rows = connection.execute(
        sa.select(mapping, *(column for column in queue.c if column.name not in ("digest", "added")))
        .outerjoin(queue, queue.c.digest == mapping.c.digest)
        .where(mapping.c.digest.in_(digest_values(connection, wanted)))
    ).all()
    return {
        wanted[row.digest]: LayerRecord(
            digest=wanted[row.digest],
            state=_state(row, now),
            rbtorrent_id=row.rbtorrent_id,
            size=row.size,
            scopes=(),
            priority=row.priority,
            added=row.added,
            locked=row.brew_lock,
            brewed=row.brewed,
            next_try=row.next_try or None,
            attempts=row.attempts or 0,
            reason=row.reason,
            brewer=row.brewer,
            claimed=row.claimed,
        )
        for row in rows
    }


def find_layer(connection: sa.Connection, tables: Tables, digest: Digest, *, now: int) -> LayerRecord | None:
    """Return the record of one layer, None if it is not in the mapping."""
    record = find_layers(connection, tables, [digest], now=now).get(digest)
    if record is None:
        return None
    scope = tables.scope
    first = sa.select(scope.c.scope).where(scope.c.digest == str(digest)).order_by(scope.c.scope)
    scopes = connection.scalars(first.limit(MAX_SCOPES + 1)).all()
    return replace(record, scopes=tuple(scopes[:MAX_SCOPES]), more_scopes=len(scopes) > MAX_SCOPES)


def find_coverage(
    connection: sa.Connection, tables: Tables, contents: ImageContents, *, now: int
) -> Coverage:
    """Return how much of an image is brewed."""
    digests = [layer.digest for layer in contents.layers]
    known = find_layers(connection, tables, digests, now=now)
    return Coverage(
        contents, tuple(_image_layer(layer, known.get(layer.digest)) for layer in contents.layers)
    )


def _image_layer(layer: LayerDescriptor, known: LayerRecord | None) -> ImageLayer:
    if known is not None:
        return ImageLayer(layer.digest, layer.size, known.state, known.rbtorrent_id, known.reason)
    if layer.why_not_brewed is None:
        return ImageLayer(layer.digest, layer.size, "unknown", why="not in the queue")
    return ImageLayer(layer.digest, layer.size, NOT_BREWABLE, why=layer.why_not_brewed)


def _state(row: sa.Row[Any], now: int) -> State:
    if row.brewed is not None:
        return "brewed"
    if row.brew_lock is not None:
        return "being brewed"
    if row.next_try is None and row.reason is not None:
        return "set aside"
    return "delayed" if (row.next_try or 0) > now else "waiting"


def list_rbtorrent_ids(connection: sa.Connection, tables: Tables, *, after: str, limit: int) -> Sequence[str]:
    """Return up to `limit` ids of brewed layers after the id `after`, in order. `after` may be empty."""
    mapping = tables.mapping
    return connection.scalars(
        sa.select(mapping.c.rbtorrent_id)
        .where(mapping.c.rbtorrent_id > after, mapping.c.brewed.is_not(None))
        .order_by(mapping.c.rbtorrent_id)
        .limit(limit)
    ).all()
