"""The databases of the conformance suite: PostgreSQL, PostgreSQL behind PgBouncer, SQLite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from sql.engine import create_engine_for
from tests.integration.sql.database import Database
from tests.servers.pgbouncer import PgBouncer, start_pgbouncer
from tests.servers.postgres import PostgresServer


@pytest.fixture(scope="session")
def pgbouncer(postgres: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PgBouncer]:
    """One PgBouncer for the session, in transaction mode."""
    with start_pgbouncer(tmp_path_factory.mktemp("pgbouncer"), postgres) as server:
        yield server


@pytest.fixture(scope="session")
def wiped_database(postgres: PostgresServer) -> Iterator[str]:
    """The name of a PostgreSQL database that the tests share: emptying is faster than creating."""
    name = f"test_sql_{os.getpid()}"
    postgres.create_database(name)
    yield name
    postgres.drop_database(name)


@pytest.fixture
def empty_database(postgres: PostgresServer, wiped_database: str) -> str:
    """The name of an empty PostgreSQL database."""
    postgres.execute("DROP SCHEMA public CASCADE", wiped_database)
    postgres.execute("CREATE SCHEMA public", wiped_database)
    return wiped_database


@pytest.fixture(params=["sqlite", "postgresql", "pgbouncer"])
def engine_url(request: pytest.FixtureRequest, tmp_path: Path, postgres: PostgresServer) -> str:
    """The URL of an empty database, of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'database.sqlite'}"
    name: str = request.getfixturevalue("empty_database")
    if request.param == "pgbouncer":
        bouncer: PgBouncer = request.getfixturevalue("pgbouncer")
        return bouncer.url(name)
    return postgres.url(name)


@pytest.fixture
def engine(engine_url: str) -> Iterator[sa.Engine]:
    """An engine for an empty database, of each kind in turn."""
    made = create_engine_for(url=engine_url, max_pool_size=20, connect_timeout=60, pool_timeout=60)
    yield made
    made.dispose()


@pytest.fixture
def postgres_engine(postgres: PostgresServer, empty_database: str) -> Iterator[sa.Engine]:
    """An engine for an empty database on PostgreSQL."""
    made = create_engine_for(
        url=postgres.url(empty_database), max_pool_size=20, connect_timeout=60, pool_timeout=60
    )
    yield made
    made.dispose()


@pytest.fixture
def database(engine: sa.Engine) -> Database:
    """A database with its tables, of each kind in turn."""
    return Database.created(engine)


@pytest.fixture
def on_postgres(postgres_engine: sa.Engine) -> Database:
    """A PostgreSQL database with its tables."""
    return Database.created(postgres_engine)
