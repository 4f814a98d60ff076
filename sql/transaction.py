"""Transactions, and the one place where the driver's errors become ours (sql/driver_errors.py says which)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from core.errors import DatabaseDown
from sql.driver_errors import as_ours


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection in a transaction that is committed at the end, or rolled back when the body raises.

    Raises DatabaseDown when the database cannot be reached, goes away, or is too busy (pool and lock
    time-outs, deadlocks), DatabaseNotReady when a table, a column or a privilege is missing. Other errors
    in a statement stay SQLAlchemy's own.
    """
    with _translated(engine), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection that only reads: no transaction on PostgreSQL, and no waiting for writers on SQLite.

    Each statement sees the database as it is when it starts. Raises DatabaseDown, as `transaction` does.
    """
    how = {"sqlite_begin": "DEFERRED"} if engine.name == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
    with _translated(engine), engine.execution_options(**how).connect() as connection:
        yield connection


@contextmanager
def temporary_tables(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection on which temporary tables stay until the end, for work that writes nothing else.

    On PostgreSQL that takes one transaction from the beginning to the end, for PgBouncer may give the next
    one another connection. On SQLite it takes none, and each statement is for itself: what is read in a
    long transaction there makes the log grow of all that others write meanwhile. Raises DatabaseDown.
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
