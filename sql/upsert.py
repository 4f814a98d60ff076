"""INSERT with ON CONFLICT, which both engines have and SQLAlchemy spells for each by itself."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite


def insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT into `table` that takes `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return insert_for(connection.dialect.name, table)


def insert_for(dialect: str, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """The same for a statement that is kept, in the SQL of `dialect`: postgresql or sqlite."""
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
