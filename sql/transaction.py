"""Transactions, and the place where the drivers' errors are translated (by sql/driver_errors.py)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from core.errors import DatabaseDown
from core.metrics import WAIT_SECONDS
from sql.driver_errors import as_ours


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection in a transaction, committed at the end, or rolled back when the body raises.

    Raises DatabaseDown when the database cannot be reached, goes away, or is too busy (pool and lock
    time-outs, deadlocks); DatabaseNotReady when a table, a column or a privilege is missing. Other errors in
    a statement stay SQLAlchemy's own.
    """
    with WAIT_SECONDS.timed("database"), _translated(engine), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Yield a connection that only reads: no transaction on PostgreSQL, and no waiting for writers on SQLite.

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
    """Let psycopg2 begin no transaction within the block.

    SQLAlchemy's isolation level AUTOCOMMIT does the same, but sends a statement when the connection goes back
    to the pool. If the server is lost by then, the pool never gets its place back.
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

    On PostgreSQL it is one transaction, as PgBouncer may give the next one another connection. On SQLite
    there is no transaction: a long one would let the log grow with everything that others write. Raises
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
        raise DatabaseDown("all of its connections are in use") from error
    except sa.exc.DBAPIError as error:
        if (ours := as_ours(error, engine)) is None:
            raise
        raise ours from error
