"""PostgreSQL databases and roles with other defaults than those of PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from core.layer import Layer
from sql.engine import create_engine_for
from sql.enqueue import enqueue_layers
from sql.history import JobRun, last_job_runs, record_job_runs
from sql.tables import Priority
from sql.transaction import reading, transaction
from tests.integration.sql.database import NOW, Database, digest_of
from tests.servers.postgres import PostgresServer

A, B = digest_of("a"), digest_of("b")


@pytest.fixture
def engine_of(postgres: PostgresServer, request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    """An engine for a database of the requested encoding. SQL_ASCII is that of a server without a locale."""
    name = f"test_encoding_{request.param.lower()}"
    postgres.execute(f"DROP DATABASE IF EXISTS {name}")
    postgres.execute(
        f"CREATE DATABASE {name} ENCODING '{request.param}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
    )
    engine = create_engine_for(url=postgres.url(name))
    yield engine
    engine.dispose()
    postgres.drop_database(name)


@pytest.mark.parametrize("engine_of", ["SQL_ASCII", "LATIN1"], indirect=True)
def test_reasons_are_stored_in_any_encoding(engine_of: sa.Engine) -> None:
    database = Database.created(engine_of)
    database.enqueue(A, B)
    first, second = database.claim(2)
    database.set_aside(first, reason="отказано: " + "x" * 1000)
    database.set_aside(second, reason="not found in a, b \u2026")
    reasons = database.status().set_aside
    assert len(reasons) == 2
    assert sum("\\u043e\\u0442" in reason for reason in reasons) == 1
    assert database.retry_failed_layers(reason_like="отказано") == 1
    with transaction(engine_of) as connection:
        record_job_runs(connection, database.tables, [JobRun("brew", NOW, 1.0, "failed", "отказано")])
        assert len(last_job_runs(connection, database.tables)) == 1


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_transactions_are_read_committed_whatever_the_default(
    postgres: PostgresServer, empty_database: str, level: str
) -> None:
    postgres.execute(f"ALTER DATABASE \"{empty_database}\" SET default_transaction_isolation = '{level}'")
    engine = create_engine_for(url=postgres.url(empty_database))
    try:
        database = Database.created(engine)
        with reading(engine) as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
        with transaction(engine) as connection:
            connection.execute(sa.select(database.tables.mapping)).all()
            assert database.enqueue(A) == 1  # committed by another connection
            enqueue_layers(connection, database.tables, [Layer(A)], priority=Priority.ASKED, now=NOW)
        assert database.claim_one().priority == Priority.ASKED
    finally:
        engine.dispose()
        postgres.execute(f'ALTER DATABASE "{empty_database}" RESET default_transaction_isolation')
