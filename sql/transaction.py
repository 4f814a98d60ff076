"""Transactions, which translate the drivers' errors (with sql/driver_errors.py), and the database's time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from core.errors import DatabaseBusy
from core.metrics import WAIT_SECONDS
from sql.driver_errors import translate

Clock = Callable[[sa.Connection], int]
"""Returns the Unix time that all hosts share: `database_time`, but for tests."""


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection in a transaction, committed at the end, or rolled back when the body raises.

    Raises DatabaseDown when the database cannot be reached, goes away, or is too busy (pool and lock
    time-outs, deadlocks); DatabaseNotReady when a table, a column or a privilege is missing. Other errors of
    a statement are SQLAlchemy's.
    """
    with WAIT_SECONDS.timed("database"), _translated(engine), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection for reading: without a transaction on PostgreSQL, and without waiting on SQLite.

    Each statement sees the database as of its start. Raises DatabaseDown, as `transaction` does.
    """
    with WAIT_SECONDS.timed("database"), _translated(engine):
        if engine.name == "sqlite":
            with engine.execution_options(sqlite_begin="DEFERRED").connect() as connection:
                yield connection
        else:
            with engine.connect() as connection, _autocommit(connection):
                yield connection


@contextmanager
def _autocommit(connection: sa.Connection) -> Iterator[None]:
    """Keep psycopg2 from starting a transaction within the block.

    SQLAlchemy's isolation level AUTOCOMMIT does the same, but sends a statement when the connection goes back
    to the pool. If the server is lost by then, the pool leaks a connection.
    """
    driver: Any = connection.connection.driver_connection
    driver.autocommit = True
    try:
        yield
    finally:
        if not driver.closed:
            driver.autocommit = False


@contextmanager
def temporary_tables(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection that keeps temporary tables until the end, for work that writes nothing else.

    On PostgreSQL it is one transaction, as PgBouncer may use another connection for the next one. On
    SQLite there is no transaction: a long one would let the log grow with all writes of others. Raises
    DatabaseDown.
    """
    connecting = engine.execution_options(sqlite_begin=None) if engine.name == "sqlite" else engine
    with _translated(engine), connecting.begin() as connection:
        yield connection


@contextmanager
def _translated(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise DatabaseBusy("all connections are in use: raise db.max_pool_size if that repeats") from error
    except sa.exc.DBAPIError as error:
        if (ours := translate(error, engine)) is None:
            raise
        raise ours from error


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
