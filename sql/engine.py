"""The engine: PostgreSQL at the first of several hosts that takes writes, or a SQLite file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from sql.errors import DatabaseDown, NoWritableHost, UnsupportedDatabase
from sql.faults import no_permission
from sql.hosts import DEFAULT_PORT, Address, Host, parse_host, resolve
from sql.patience import patience, teach
from sql.probe import answering

__all__ = ["DatabaseDown", "NoWritableHost", "create_engine_for"]

# How long a host that answers may take to let us in and say whether it takes writes, at least.
_LOGIN_SECONDS = 1.0
# How long a pooled connection may take to show that it is alive.
_PING_SECONDS = 2.0
# A server that vanishes in mid-query is noticed within about 30 s, not hours.
_NOTICE = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# How long a SQLite writer waits for the others, seconds.
_BUSY_SECONDS = 30
_READ_ONLY_TRANSACTION = "25006"


def create_engine_for(
    *,
    url: str | None = None,
    file: str | Path | None = None,
    hosts: Sequence[str] = (),
    port: int = DEFAULT_PORT,
    database: str | None = None,
    username: str | None = None,
    password: str | None = None,
    connect_timeout: float = 2.0,
    max_pool_size: int = 10,
    pool_timeout: float = 5.0,
) -> sa.Engine:
    """An engine for `url`, for the SQLite `file`, or for PostgreSQL at `hosts`; nothing is connected yet.

    Times are seconds. A PostgreSQL connection goes to the first of the hosts that takes writes. One that
    does not answer costs `connect_timeout`, which may be a fraction; one that answers and lets nobody in,
    as a PgBouncer whose server is gone, that or a second. Nothing that lasts longer than a transaction is
    asked of the server, so that PgBouncer may stand between (in transaction mode).
    Raises UnsupportedDatabase, ValueError for a host that is none. Connecting raises NoWritableHost.
    """
    if file is not None:
        parsed = sa.URL.create("sqlite", database=str(file))
    elif url is not None:
        parsed = _parse_url(url)
    else:
        parsed = sa.URL.create("postgresql+psycopg2", username, password, database=database)
    pool: dict[str, Any] = {"pool_size": max_pool_size, "max_overflow": 0, "pool_timeout": pool_timeout}
    if parsed.get_backend_name() == "sqlite":
        return _sqlite(parsed, pool)
    if url is not None:
        hosts, port = _hosts_of(parsed), parsed.port or DEFAULT_PORT
    # With "postgresql" alone SQLAlchemy 2.1 takes another driver.
    bare = parsed.set(drivername="postgresql+psycopg2", host=None, port=None).difference_update_query(
        ["host"]
    )
    return _postgresql(bare, [parse_host(host, port) for host in hosts], connect_timeout, pool)


def check_url(url: str) -> None:
    """Raises ValueError if `url` is none that `create_engine_for` takes; it shows no more than the scheme."""
    parsed = _parse_url(url)
    try:
        for host in _hosts_of(parsed):
            parse_host(host, parsed.port or DEFAULT_PORT)
    except ValueError:
        raise ValueError("its host is none: expected host, host:port or [address]:port") from None
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ValueError("expected a port from 1 to 65535")


def _parse_url(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise UnsupportedDatabase("what is no URL") from error
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg2"):
        return url
    # A database in memory would be another one for each thread and process.
    if url.drivername in ("sqlite", "sqlite+pysqlite") and url.database not in (None, "", ":memory:"):
        return url
    raise UnsupportedDatabase(
        f"{url.drivername}:// {'in memory' if 'sqlite' in url.drivername else ''}".strip()
    )


def _hosts_of(url: sa.URL) -> list[str]:
    """The hosts in a URL's usual place, or several in its query: `?host=a:1&host=b:2`."""
    asked = url.query.get("host", ())
    listed = [asked] if isinstance(asked, str) else [*asked]
    return [host for text in [url.host or "", *listed] for host in text.split(",") if host]


def _postgresql(
    url: sa.URL, hosts: Sequence[Host], connect_timeout: float, pool: dict[str, Any]
) -> sa.Engine:
    engine = sa.create_engine(
        url,
        # One query less for each new connection: hstore is not used.
        use_native_hstore=False,
        # A pooled connection may have died with the server: it is tried before it is used.
        pool_pre_ping=True,
        # So that the connections a peak needed are left to the server's own idle time-out.
        pool_use_lifo=True,
        hide_parameters=True,
        **pool,
    )
    dbapi: Any = engine.dialect.loaded_dbapi
    teach(dbapi)

    def connect(dialect: Any, _: object, cargs: Sequence[str], given: dict[str, Any]) -> DBAPIConnection:
        reasons: list[str] = []
        for host, where in _places(hosts, connect_timeout, reasons):
            try:
                with patience(max(connect_timeout, _LOGIN_SECONDS)):
                    connection = dialect.connect(**{**_NOTICE, **given, **where})
                    if _takes_writes(connection):
                        return cast(DBAPIConnection, connection)
                connection.close()
                reasons.append(f"{host}: it is read-only")
            except dbapi.Error as error:
                reasons.append(f"{host}: {' '.join(str(error).split())}")
        raise NoWritableHost(reasons)

    ping = engine.dialect.do_ping

    def impatient_ping(connection: Any) -> bool:
        with patience(_PING_SECONDS):
            return ping(connection)

    def after_error(context: sa.ExceptionContext) -> None:
        # A primary that was made a standby keeps its connections: drop them all, and look for the new one.
        if getattr(context.original_exception, "pgcode", None) == _READ_ONLY_TRANSACTION:
            context.is_disconnect = True

    # SQLAlchemy has an event for all but this.
    engine.dialect.do_ping = impatient_ping  # type: ignore[assignment]
    sa.event.listen(engine, "do_connect", connect)
    sa.event.listen(engine, "handle_error", after_error)
    return engine


def _takes_writes(connection: Any) -> bool:
    """Whether there is a server behind the connection, and one that takes writes.

    libpq's target_session_attrs goes by what the server said when it was connected to; from PgBouncer that
    may be hours old, or of a server that is gone.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("SHOW transaction_read_only")
        writable: bool = cursor.fetchone() == ("off",)
    connection.autocommit = False
    return writable


def _places(
    hosts: Sequence[Host], timeout: float, reasons: list[str]
) -> Iterator[tuple[Host | str, dict[str, object]]]:
    """Each address that answers, host by host, in libpq's words; without hosts, what libpq takes then."""
    if not hosts:
        yield "libpq's default", {}
    for host in hosts:
        silent: list[str] = []
        try:
            for address in answering(resolve(host, timeout), timeout, silent):
                yield host, _place(host, address)
        except OSError as error:
            silent.append(error.strerror or str(error))
        reasons += [f"{host}: {why}" for why in silent]


def _place(host: Host, address: Address) -> dict[str, object]:
    # The name as well as the address: certificates and ~/.pgpass go by it.
    place: dict[str, object] = {"host": host.name, "port": host.port}
    return {**place, "hostaddr": address.ip} if address.ip else place


def _sqlite(url: sa.URL, pool: dict[str, Any]) -> sa.Engine:
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
