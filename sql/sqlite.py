"""The SQLite engine: one file, with one writer and any number of concurrent readers."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from core.errors import DatabaseDown
from sql.driver_errors import sqlite_path_error

# How many seconds a writer waits for the others, unless the URL says otherwise (`?timeout=`).
_BUSY_SECONDS = 30.0
# The interval in seconds at which a waiting writer tries again.
_RETRY_SECONDS = 0.001
# Seconds that the database stays free after this process has written for _RUN_SECONDS. A process that always
# began the next transaction at once would starve the others.
_YIELD_SECONDS = 0.003
_RUN_SECONDS = 0.010
# More than a transaction adds to the write-ahead log.
_ROOM_BYTES = 128 * 1024


def sqlite_engine(url: sa.URL, pool: dict[str, Any], *, read_only: bool = False) -> sa.Engine:
    """Return an engine for the file of `url`.

    With `read_only` it writes nothing and waits for no writer; a file that does not exist is an empty
    database. Otherwise the file is created with mode 0600, its folder with 0700.
    """
    busy_seconds = float(str(url.query.get("timeout", _BUSY_SECONDS)))
    # How a file is read depends on whether others use it, so readers open it each time.
    pooled = {"poolclass": sa.NullPool} if read_only else {"poolclass": sa.QueuePool, **pool}
    engine = sa.create_engine(
        url.update_query_dict({"timeout": str(busy_seconds)}), hide_parameters=True, **pooled
    )
    file = Path(url.database or "")
    if read_only:
        sa.event.listen(engine, "do_connect", lambda *_: _open_read_only(file, busy_seconds))
    else:
        sa.event.listen(engine, "do_connect", lambda *_: _create_file(file))
        sa.event.listen(engine, "connect", _prepare)
        _watch_file(engine, file)
    writers = _FairWriters(busy_seconds)

    def begin(connection: sa.Connection) -> None:
        # A transaction that starts as a reader cannot wait for a writer: its first write fails at once with
        # "database is locked". So writers take the lock first.
        mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        if read_only and mode is not None:
            connection.exec_driver_sql("BEGIN")
        elif mode == "IMMEDIATE":
            writers.begin(connection)
        elif mode is not None:
            connection.exec_driver_sql(f"BEGIN {mode}")

    sa.event.listen(engine, "begin", begin)
    sa.event.listen(engine, "commit", writers.end)
    return engine


def checkpoint(engine: sa.Engine) -> None:
    """Close the engine's connections and move everything from the write-ahead log into the file.

    Does nothing on PostgreSQL; while other processes use the database, it only closes.
    """
    file = Path(engine.url.database or "")
    engine.dispose()
    if engine.name != "sqlite" or not os.access(file, os.W_OK):
        return
    try:
        connection = sqlite3.connect(file, timeout=1.0)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            # The last process to close the database deletes the log.
            connection.close()
    except sqlite3.Error:
        pass  # The data is safe in the log.


def check_room(engine: sa.Engine) -> None:
    """Raise DatabaseDown if the disk of the file is full, which reading does not detect."""
    file = Path(engine.url.database or "")
    disk = os.statvfs(file.parent)
    free = (disk.f_bfree if os.geteuid() == 0 else disk.f_bavail) * disk.f_frsize
    if free < _ROOM_BYTES:
        raise DatabaseDown(f"{file}: {free} bytes are left on its disk: free some space")


class _FairWriters:
    """Write transactions of this process, which leave time for those of other processes.

    SQLite's own wait backs off to 100 ms, and starves while another process writes without a pause. So
    waiting writers try every millisecond, and a process that writes without a pause has to pause.
    """

    def __init__(self, busy_seconds: float) -> None:
        self._busy_seconds = busy_seconds
        self._lock = threading.Lock()
        self._never = threading.Event()
        """Waited for instead of time.sleep, which fails while a test sets the clock with libfaketime."""
        self._began = 0.0
        """The start of the current series of transactions without a pause."""
        self._ended = 0.0

    def begin(self, connection: sa.Connection) -> None:
        """Begin a write transaction. Raises SQLAlchemy's OperationalError if it has to wait for too long."""
        deadline = time.monotonic() + self._busy_seconds
        raw: Any = connection.connection.dbapi_connection
        raw.execute("PRAGMA busy_timeout = 0")
        try:
            while time.monotonic() < deadline:
                with self._lock:
                    try:
                        if self._is_due():
                            raw.execute("BEGIN IMMEDIATE")
                            return
                    except sqlite3.OperationalError as error:
                        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                            break
                self._never.wait(_RETRY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            # Once more, for SQLAlchemy's error: it raises that for its own statements only.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        finally:
            raw.execute(f"PRAGMA busy_timeout = {int(self._busy_seconds * 1000)}")

    def _is_due(self) -> bool:
        """Return whether this process may write now, or pauses for others. The lock is held."""
        now = time.monotonic()
        if now - self._ended >= _YIELD_SECONDS:
            self._began = now
        return now - self._began < _RUN_SECONDS

    def end(self, _: sa.Connection) -> None:
        """Record that a transaction is about to be committed."""
        with self._lock:
            self._ended = time.monotonic()


def _open_read_only(file: Path, busy_seconds: float) -> DBAPIConnection:
    # Path.exists() hides a folder that may not be searched.
    try:
        file.stat()
    except FileNotFoundError:
        uri = "file::memory:"
    except OSError as error:
        raise sqlite_path_error(error, file) from error
    else:
        # Otherwise SQLite creates an empty log in order to read, which requires permission to write.
        uri = f"{file.absolute().as_uri()}?mode=ro{'&immutable=1' if _is_closed(file) else ''}"
    return cast(
        DBAPIConnection,
        sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False),
    )


def _is_closed(file: Path) -> bool:
    """Return whether no process uses the file: the last one to close it deletes the log."""
    beside = os.path.realpath(file)
    return not (os.path.exists(f"{beside}-wal") or os.path.exists(f"{beside}-journal"))


def _create_file(file: Path) -> None:
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise sqlite_path_error(error, file.parent) from error
    try:
        # SQLite gives its other files (-wal, -shm) the same mode.
        os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
    except OSError as error:
        raise sqlite_path_error(error, file) from error


def _watch_file(engine: sa.Engine, file: Path) -> None:
    """Open the file again if it was removed or replaced: what is written to the old one is lost."""

    def connected(_: object, record: Any) -> None:
        record.info["file"] = _identity(file)

    def checked_out(_: object, record: Any, __: object) -> None:
        if record.info["file"] != _identity(file):
            # Replaces the other connections too.
            raise sa.exc.InvalidatePoolError

    sa.event.listen(engine, "connect", connected)
    sa.event.listen(engine, "checkout", checked_out)


def _identity(file: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(file)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _prepare(connection: Any, _: object) -> None:
    connection.isolation_level = None  # `begin` says BEGIN
    # Concurrent readers and a writer. The mode belongs to the file: it changes only once.
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA journal_mode=WAL")
    # NORMAL may lose the last commits in a power cut. A layer would only be brewed again, but a push that was
    # answered with OK would be lost: the registry does not send it twice.
    connection.execute("PRAGMA synchronous=FULL")
