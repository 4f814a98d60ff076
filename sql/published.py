"""The ids of all that is brewed, in their order, for a tracker that serves nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from sql.tables import Tables


def next_rbtorrent_ids(connection: sa.Connection, tables: Tables, *, after: str, limit: int) -> Sequence[str]:
    """Up to `limit` ids of brewed layers that come after this one; an empty text is before all of them."""
    mapping = tables.mapping
    return connection.scalars(
        sa.select(mapping.c.rbtorrent_id)
        .where(mapping.c.rbtorrent_id > after, mapping.c.brewed.is_not(None))
        .order_by(mapping.c.rbtorrent_id)
        .limit(limit)
    ).all()
