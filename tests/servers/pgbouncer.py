"""A real PgBouncer between a test and its PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sa

from tests.servers.postgres import PostgresServer
from tests.servers.process import ServerProcess, free_port, listening, require

# PgBouncer refuses to run as root.
USER = "nobody"
PoolMode = Literal["session", "transaction", "statement"]

_CONFIG = """
[databases]
* = {upstream}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
admin_users = postgres
pool_mode = {pool_mode}
default_pool_size = {pool_size}
max_client_conn = 500
server_login_retry = 0
"""


@dataclass(frozen=True)
class PgBouncer:
    """A running PgBouncer in front of every database of its server."""

    host: str
    port: int
    process: ServerProcess

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database through PgBouncer, which requires no password."""
        return sa.URL.create(
            "postgresql+psycopg2", "postgres", host=self.host, port=self.port, database=database
        ).render_as_string()

    def start(self) -> None:
        """Start it again on the same port."""
        self.process.start()

    def stop(self) -> None:
        """Stop it; its clients are disconnected."""
        self.process.stop()


@contextmanager
def start_pgbouncer(
    folder: Path, server: PostgresServer, *, pool_mode: PoolMode = "transaction", pool_size: int = 4
) -> Iterator[PgBouncer]:
    """Run PgBouncer in front of `server`, `pool_size` connections to each of its databases.

    A small pool makes sure that two transactions of one client see different connections.
    Raises ServerMissing, ServerFailed.
    """
    binary = require("pgbouncer", "pgbouncer")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    config = folder / "pgbouncer.ini"
    config.write_text(
        _CONFIG.format(
            upstream=_upstream(server.root_url), port=port, pool_mode=pool_mode, pool_size=pool_size
        )
    )
    process = ServerProcess([binary, config], ready=listening(port), log=folder / "pgbouncer.log", user=USER)
    process.start()
    try:
        yield PgBouncer("127.0.0.1", port, process)
    finally:
        process.stop()


def _upstream(url: sa.URL) -> str:
    """Return the connection string of a server for pgbouncer.ini, section databases."""
    words = {
        "host": url.host or "127.0.0.1",
        "port": str(url.port or 5432),
        "user": url.username or "postgres",
    }
    if url.password is not None:
        words["password"] = url.password
    return " ".join("{}='{}'".format(name, value.replace("'", "''")) for name, value in words.items())
