"""Transactions, and the one place where the driver's errors become ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from sql.errors import DatabaseDown

_SQLITE_DOWN = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_READONLY,
    }
)


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection in a transaction that is committed at the end, or rolled back when the body raises.

    Raises DatabaseDown when the database cannot be reached, goes away, or is too busy (pool and lock
    time-outs, deadlocks). What is wrong with a statement passes as SQLAlchemy's own error.
    """
    with _translated(), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection that only reads: no transaction on PostgreSQL, and no waiting for writers on SQLite.

    Each statement sees the database as it is when it starts. Raises DatabaseDown, as `transaction` does.
    """
    how = {"sqlite_begin": "DEFERRED"} if engine.name == "sqlite" else {"isolation_level": "AUTOCOMMIT"}
    with _translated(), engine.execution_options(**how).connect() as connection:
        yield connection


@contextmanager
def scratch(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A connection on which temporary tables stay until the end, for work that writes nothing else.

    On PostgreSQL that takes one transaction from the beginning to the end, for PgBouncer may give the next
    one another connection. On SQLite it takes none, and each statement is for itself: what is read in a
    long transaction there makes the log grow of all that others write meanwhile. Raises DatabaseDown.
    """
    connecting = engine.execution_options(sqlite_begin=None) if engine.name == "sqlite" else engine
    with _translated(), connecting.begin() as connection:
        yield connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sa.exc.TimeoutError as error:
        raise DatabaseDown("all of its connections are in use") from error
    except sa.exc.DBAPIError as error:
        if _is_down(error):
            raise DatabaseDown(" ".join(str(error.orig).split())) from error
        raise


def _is_down(error: sa.exc.DBAPIError) -> bool:
    if isinstance(error.orig, sqlite3.Error):
        # Its OperationalError stands for a missing table as well as for a full disk: the code tells.
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _SQLITE_DOWN
    return error.connection_invalidated or isinstance(error, (sa.exc.OperationalError, sa.exc.InterfaceError))
