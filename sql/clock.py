"""The database's clock, which all hosts share."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

Clock = Callable[[sa.Connection], int]
"""Returns the Unix time that all hosts share: `database_time`, but for tests."""


def database_time(connection: sa.Connection) -> int:
    """Return the database's time in whole Unix seconds.

    All times in the tables use this clock, so a host whose own clock is wrong neither releases the locks of
    others nor delays their work.
    """
    return connection.execute(sa.select(time_of_statement(connection.dialect.name))).scalar_one()


def time_of_statement(dialect: str) -> sa.ColumnElement[int]:
    """Return the database's time when a statement begins, as a part of that statement."""
    if dialect == "postgresql":
        seconds: sa.ColumnElement[float] = sa.func.floor(sa.extract("epoch", sa.func.statement_timestamp()))
    else:
        seconds = sa.func.strftime("%s", "now")
    return sa.cast(seconds, sa.BigInteger)
