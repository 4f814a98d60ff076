"""The database's clock, which all hosts share."""

from __future__ import annotations

import sqlalchemy as sa

_STATEMENTS = {
    "postgresql": sa.select(
        sa.cast(sa.func.floor(sa.extract("epoch", sa.func.clock_timestamp())), sa.BigInteger)
    ),
    "sqlite": sa.select(sa.cast(sa.func.strftime("%s", "now"), sa.BigInteger)),
}


def database_time(connection: sa.Connection) -> int:
    """Return the database's time in whole Unix seconds.

    What brewers compare with each other's times (locks, next tries) is in this time: a host whose own clock
    is wrong neither releases the locks of others nor leaves locks from the future behind.
    """
    return connection.execute(_STATEMENTS[connection.dialect.name]).scalar_one()
