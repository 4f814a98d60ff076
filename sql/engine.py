"""The engine: PostgreSQL at the first of several hosts that takes writes, or a SQLite file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from sql.hosts import DEFAULT_PORT, parse_host
from sql.postgresql import postgresql_engine
from sql.sqlite import sqlite_engine


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
    read_only: bool = False,
) -> sa.Engine:
    """Return an engine for `url`, for the SQLite `file`, or for PostgreSQL at `hosts`. It connects later.

    Times are in seconds. A PostgreSQL connection goes to the first of the hosts that takes writes. A host
    that does not answer costs `connect_timeout`, which may be a fraction; one that answers but accepts no
    login, such as a PgBouncer whose server is down, costs that or a second. No session state is used, so
    PgBouncer in transaction mode works. With `read_only` a SQLite file is opened for reading only, and an
    absent file is an empty database.

    Raises ValueError for another database or an invalid host. Connecting raises DatabaseDown.
    """
    if file is not None:
        parsed = sa.URL.create("sqlite", database=str(file))
    elif url is not None:
        parsed = _parse_url(url)
    else:
        parsed = sa.URL.create("postgresql+psycopg2", username, password, database=database)
    pool: dict[str, Any] = {"pool_size": max_pool_size, "max_overflow": 0, "pool_timeout": pool_timeout}
    if parsed.get_backend_name() == "sqlite":
        return sqlite_engine(parsed, pool, read_only=read_only)
    if url is not None:
        hosts, port = _hosts_of(parsed), parsed.port or DEFAULT_PORT
    # For a plain "postgresql" SQLAlchemy 2.1 chooses another driver.
    bare = parsed.set(drivername="postgresql+psycopg2", host=None, port=None).difference_update_query(
        ["host"]
    )
    return postgresql_engine(bare, [parse_host(host, port) for host in hosts], connect_timeout, pool)


def check_url(url: str) -> None:
    """Raise ValueError unless `create_engine_for` accepts `url`. The message shows only the scheme."""
    parsed = _parse_url(url)
    if parsed.get_backend_name() == "sqlite":
        _check_sqlite_query(parsed)
        return
    try:
        for host in _hosts_of(parsed):
            parse_host(host, parsed.port or DEFAULT_PORT)
    except ValueError:
        raise ValueError("the host is invalid: expected host, host:port or [address]:port") from None
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise ValueError("expected a port from 1 to 65535")
    _check_postgresql_query(parsed)


def _check_postgresql_query(url: sa.URL) -> None:
    import psycopg2.extensions

    for name in url.query:
        try:
            psycopg2.extensions.make_dsn(**{name: ""})
        except psycopg2.ProgrammingError:
            raise ValueError(f"?{name}= is not an option of PostgreSQL's libpq") from None


def _check_sqlite_query(url: sa.URL) -> None:
    for name, value in url.query.items():
        if name != "timeout":
            raise ValueError(f"?{name}= has no effect on SQLite: expected ?timeout=SECONDS or nothing")
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", str(value)):
            raise ValueError("expected a number of seconds in ?timeout=")


def _parse_url(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise _unsupported("an invalid URL") from error
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg2"):
        return url
    # Each thread and process would have a different database in memory.
    if url.drivername in ("sqlite", "sqlite+pysqlite") and url.database not in (None, "", ":memory:"):
        return url
    raise _unsupported(f"{url.drivername}://{' in memory' if 'sqlite' in url.drivername else ''}")


def _unsupported(what: str) -> ValueError:
    return ValueError(f"{what} is not supported: use postgresql:// or sqlite:///file")


def _hosts_of(url: sa.URL) -> list[str]:
    """Return the hosts of a URL: the usual one, or several in its query, as in `?host=a:1&host=b:2`."""
    hosts = url.query.get("host", ())
    listed = [hosts] if isinstance(hosts, str) else [*hosts]
    return [host for text in [url.host or "", *listed] for host in text.split(",") if host]
