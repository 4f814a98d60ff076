"""The SQLite engine: one file, readers beside one writer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from core.errors import DatabaseDown
from sql.driver_errors import no_permission

# How long a SQLite writer waits for the others, seconds.
_BUSY_SECONDS = 30


def sqlite_engine(url: sa.URL, pool: dict[str, Any]) -> sa.Engine:
    engine = sa.create_engine(
        url.update_query_dict({"timeout": str(_BUSY_SECONDS), **url.query}),
        poolclass=sa.QueuePool,
        hide_parameters=True,
        **pool,
    )

    folder = Path(url.database or "").parent

    def make_folder(*_: object) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DatabaseDown(no_permission(error, folder)) from error

    def prepare(connection: Any, _: object) -> None:
        connection.isolation_level = None  # BEGIN is ours to say, below
        # Readers and a writer beside each other. The mode is the file's: it changes once in its life.
        if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            connection.execute("PRAGMA journal_mode=WAL")
        # NORMAL may lose the last commits in a power cut. A layer would only be brewed again, but a push
        # that was answered OK would be gone for good: the registry does not send it twice.
        connection.execute("PRAGMA synchronous=FULL")

    def begin(connection: sa.Connection) -> None:
        # A writer that begins as a reader cannot wait for another writer, it fails at once ("database is
        # locked"): so the lock is taken first, unless the caller says that it only reads, or wants none.
        mode = connection.get_execution_options().get("sqlite_begin", "IMMEDIATE")
        if mode is not None:
            connection.exec_driver_sql(f"BEGIN {mode}")

    sa.event.listen(engine, "do_connect", make_folder)
    sa.event.listen(engine, "connect", prepare)
    sa.event.listen(engine, "begin", begin)
    return engine
