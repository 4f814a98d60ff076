"""The database's clock, which all hosts share."""

from __future__ import annotations

import sqlalchemy as sa


def database_time(connection: sa.Connection) -> int:
    """Return the database's time in whole Unix seconds.

    Times that brewers compare with each other (locks, retries) use this clock, so a host whose own clock is
    wrong neither releases the locks of others nor leaves locks in the future.
    """
    return connection.execute(sa.select(time_of_statement(connection.dialect.name))).scalar_one()


def time_of_statement(dialect: str) -> sa.ColumnElement[int]:
    """Return the database's time when a statement begins, as a part of that statement."""
    if dialect == "postgresql":
        seconds: sa.ColumnElement[float] = sa.func.floor(sa.extract("epoch", sa.func.statement_timestamp()))
    else:
        seconds = sa.func.strftime("%s", "now")
    return sa.cast(seconds, sa.BigInteger)
