"""The PostgreSQL engine: connects to the first host that takes writes, and limits how long it waits.

psycopg2 has no query timeout of its own. PgBouncer accepts connections for a server that is down and lets a
query wait for two minutes; a hung server makes it wait forever. psycopg2 delegates waiting to a callback, one
for the whole process, if one is installed (its manual, "Coroutine libraries"): the one here respects the
thread's deadline.
"""

from __future__ import annotations

import math
import re
import select
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import DBAPIConnection

from core.errors import DatabaseBusy, DatabaseDown, DatabaseRefused
from sql.hosts import Address, Host, answering, resolve

# The minimum time for the login and the check for writes at a host that answers.
_LOGIN_SECONDS = 1.0
# The time for a pooled connection to answer a ping.
_PING_SECONDS = 2.0
# A server that vanishes during a query is noticed within about 30 s, not hours.
_KEEPALIVE = {
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# The server's answers to a login that cannot work until a configuration is changed, and what to change.
_REMEDIES = (
    (
        re.compile(
            r"password authentication failed|no password supplied|authentication failed for user"
            r"|role \S+ (?:does not exist|is not permitted to log in)|no such user"
        ),
        "correct the user or the password in section db",
    ),
    (
        re.compile(r"database \S+ does not exist|no such database"),
        "correct its name in section db, or create it",
    ),
    (re.compile(r"permission denied for database"), "GRANT CONNECT ON DATABASE to this user"),
    (re.compile(r"no pg_hba\.conf entry"), "add one for this user and host"),
)
# Those of a server, or of PgBouncer, whose connections are all in use.
_FULL = re.compile(r"too many (?:clients|connections)|remaining connection slots|no more connections allowed")
_FULL_REMEDY = "allow more connections there, or lower db.max_pool_size"
_READ_ONLY = "it is read-only"
_READ_ONLY_TRANSACTION = "25006"
_DISK_FULL = "53100"
_FULL_SECONDS = 60.0
"""How long a full disk is reported after a statement that failed for it. Those that need no room succeed."""
_READ_COMMITTED = "read committed"


def postgresql_engine(
    url: sa.URL, hosts: Sequence[Host], connect_timeout: float, pool: dict[str, Any]
) -> sa.Engine:
    """Return an engine that connects to the first of `hosts` that takes writes."""
    engine = sa.create_engine(
        url,
        # Saves a query for each new connection: hstore is not used.
        use_native_hstore=False,
        # The server's idle time-out closes surplus connections after a peak.
        pool_use_lifo=True,
        hide_parameters=True,
        **pool,
    )
    dbapi: Any = engine.dialect.loaded_dbapi
    install_wait_callback(dbapi)

    def connect(dialect: Any, _: object, cargs: Sequence[str], arguments: dict[str, Any]) -> DBAPIConnection:
        reasons: list[str] = []
        for host, where in _addresses(hosts, connect_timeout, reasons):
            try:
                with query_timeout(max(connect_timeout, _LOGIN_SECONDS)):
                    connection = dialect.connect(**{**_KEEPALIVE, **arguments, **where})
                    if _takes_writes(connection):
                        return cast(DBAPIConnection, connection)
                connection.close()
                reasons.append(f"{host}: {_READ_ONLY}")
            except dbapi.Error as error:
                reasons.append(f"{host}: {' '.join(str(error).split())}")
        refused = [f"{reason}: {remedy}" for reason in reasons if (remedy := _remedy(reason))]
        if refused or (reasons and all(reason.endswith(_READ_ONLY) for reason in reasons)):
            raise DatabaseRefused("; ".join(refused or reasons))
        if any(_FULL.search(reason) for reason in reasons):
            raise DatabaseBusy(f"{'; '.join(reasons)}: {_FULL_REMEDY}")
        raise DatabaseDown("; ".join(reasons))

    def ping(connection: Any, record: Any, _: object) -> None:
        """Ping a pooled connection before use: it may have died with the server."""
        if record.info.pop("new", False):
            return
        try:
            with query_timeout(_PING_SECONDS):
                engine.dialect.do_ping(connection)
        except dbapi.Error as error:
            # Replaces the other connections too.
            raise sa.exc.InvalidatePoolError from error

    def after_error(context: sa.ExceptionContext) -> None:
        code = getattr(context.original_exception, "pgcode", None)
        # A primary that became a standby keeps its connections: drop them, and find the new one.
        if code == _READ_ONLY_TRANSACTION:
            context.is_disconnect = True
        if code == _DISK_FULL:
            _full[engine] = time.monotonic(), str(context.original_exception).partition("\n")[0]

    sa.event.listen(engine, "do_connect", connect)
    sa.event.listen(engine, "connect", lambda _, record: record.info.update(new=True))
    sa.event.listen(engine, "checkout", ping)
    sa.event.listen(engine, "handle_error", after_error)
    return engine


_full: WeakKeyDictionary[sa.Engine, tuple[float, str]] = WeakKeyDictionary()
"""When a statement last failed as the server's disk is full, and the server's message."""


def check_not_full(engine: sa.Engine) -> None:
    """Raise DatabaseDown if the server's disk was full for a statement of this process in the last minute.

    Reading does not detect that.
    """
    failed, why = _full.get(engine, (-math.inf, ""))
    ago = time.monotonic() - failed
    if ago < _FULL_SECONDS:
        raise DatabaseDown(f"{why}: free some space (a write failed {ago:.0f} s ago)")


def _remedy(reason: str) -> str | None:
    return next((remedy for pattern, remedy in _REMEDIES if pattern.search(reason)), None)


def _takes_writes(connection: Any) -> bool:
    """Return whether the connection reaches a server that takes writes. Its transactions are read committed.

    libpq's target_session_attrs relies on the server's parameters at connect time; from PgBouncer these may
    be hours old, or from a server that is down. The level is the default of PostgreSQL, unless a database or
    role has another one: claims of several brewers would fail there. psycopg2 names it in each BEGIN.
    """
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('transaction_read_only'), current_setting('transaction_isolation')"
        )
        read_only, isolation = cursor.fetchone()
    connection.autocommit = False
    if isolation != _READ_COMMITTED:
        connection.isolation_level = _READ_COMMITTED
    writable: bool = read_only == "off"
    return writable


def _addresses(
    hosts: Sequence[Host], timeout: float, reasons: list[str]
) -> Iterator[tuple[Host | str, dict[str, object]]]:
    """Yield each address that answers, host by host, as libpq arguments; without hosts, libpq's default."""
    if not hosts:
        yield "libpq's default", {}
    for host in hosts:
        silent: list[str] = []
        try:
            for address in answering(resolve(host, timeout), timeout, silent):
                yield host, _address_arguments(host, address)
        except OSError as error:
            silent.append(error.strerror or str(error))
        reasons += [f"{host}: {why}" for why in silent]


def _address_arguments(host: Host, address: Address) -> dict[str, object]:
    # The name too, for certificates and ~/.pgpass.
    arguments: dict[str, object] = {"host": host.name, "port": host.port}
    return {**arguments, "hostaddr": address.ip} if address.ip else arguments


def text_encoding(connection: sa.Connection) -> str:
    """Return Python's name of the encoding of texts sent to the database: UTF-8, but for some PostgreSQL's.

    A PostgreSQL that was set up without a locale has SQL_ASCII, for which psycopg2 accepts ASCII only.
    """
    if connection.dialect.name != "postgresql":
        return "utf-8"
    driver: Any = connection.connection.driver_connection
    dbapi: Any = connection.dialect.loaded_dbapi
    name: str = dbapi.extensions.encodings[driver.encoding]
    return name


class _Deadline(threading.local):
    until: float | None = None


_deadline = _Deadline()


@contextmanager
def query_timeout(seconds: float) -> Iterator[None]:
    """Limit how long this thread waits for PostgreSQL within the block, and no longer than an outer block.

    Afterwards psycopg2 raises OperationalError and the connection is closed.
    """
    outer = _deadline.until
    _deadline.until = min(time.monotonic() + seconds, math.inf if outer is None else outer)
    try:
        yield
    finally:
        _deadline.until = outer


def install_wait_callback(psycopg2: Any) -> None:
    """Make psycopg2 wait with `query_timeout`'s deadline; without one it waits without limit."""
    ok, reading = psycopg2.extensions.POLL_OK, psycopg2.extensions.POLL_READ

    def wait(connection: Any) -> None:
        # The socket may change with each step of connecting.
        while (state := connection.poll()) != ok:
            waiting = select.poll()
            waiting.register(connection.fileno(), select.POLLIN if state == reading else select.POLLOUT)
            until = _deadline.until
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            if not waiting.poll(left):
                raise psycopg2.OperationalError("no answer in time")

    psycopg2.extensions.set_wait_callback(wait)
