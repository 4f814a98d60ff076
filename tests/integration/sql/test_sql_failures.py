"""Recent failures of layers: recorded, deleted after a week, listed with the latest first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from sql.engine import create_engine_for
from sql.failures import KEEP_SECONDS, RecentFailure, list_recent_failures
from sql.transaction import reading, transaction
from tests.integration.sql.database import NOW, Database, digest_of

A, B, C = (digest_of(name) for name in "abc")


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    engine = create_engine_for(url=database_url)
    yield Database.created(engine)
    engine.dispose()


def failures(database: Database, limit: int = 10) -> list[RecentFailure]:
    with reading(database.engine) as connection:
        return list_recent_failures(connection, database.tables, limit=limit)


def test_failures_are_listed_with_their_queue_rows_the_latest_first(database: Database) -> None:
    database.enqueue(A, size=5, scope="library/ubuntu")
    database.enqueue(A, size=5, scope="library/debian")
    database.set_aside(database.claim_one(), reason="no blob", now=NOW + 1)
    database.enqueue(B, scope=None)
    database.retry(database.claim_one(), reason="slow", next_try=NOW + 60, now=NOW + 2)

    assert failures(database) == [
        RecentFailure(str(B), NOW + 2, 1, NOW + 60, "slow", None, None),
        RecentFailure(str(A), NOW + 1, 1, None, "no blob", 5, "library/debian"),
    ]
    assert [failure.digest for failure in failures(database, limit=1)] == [str(B)]


def test_a_layer_of_a_vanished_brewer_counts_as_failed(database: Database) -> None:
    database.enqueue(A)
    database.claim_one(brewer="host:7")
    database.release(older_than=NOW + 1, max_attempts=1)

    [failure] = failures(database)

    assert (failure.digest, failure.failed) == (str(A), NOW + 1)
    assert failure.reason == "brewer host:7 vanished"


def test_layers_brewed_or_queued_again_since_are_not_listed(database: Database) -> None:
    database.enqueue(A)
    database.retry(database.claim_one(), next_try=NOW)
    database.complete(database.claim_one())
    database.enqueue(B)
    database.set_aside(database.claim_one())
    database.retry_failed_layers()

    assert failures(database) == []
    with reading(database.engine) as connection:
        left = connection.scalars(sa.select(database.tables.failure.c.digest)).all()
    assert left == [str(B)]


def test_failures_of_last_week_are_forgotten_with_the_next_one(database: Database) -> None:
    database.enqueue(A, B)
    for claim in database.claim():
        database.set_aside(claim, now=NOW)
    database.enqueue(C)
    database.set_aside(database.claim_one(), now=NOW + KEEP_SECONDS + 1)

    assert [failure.digest for failure in failures(database)] == [str(C)]
    with transaction(database.engine) as connection:
        rows = connection.scalars(sa.select(sa.func.count()).select_from(database.tables.failure)).one()
    assert rows == 1


def test_without_the_table_layers_fail_and_are_brewed_all_the_same(database: Database) -> None:
    """Older versions did not make it, and the user may not create tables."""
    database.tables.failure.drop(database.engine)
    database.enqueue(A, B, C)

    first, second, third = database.claim()
    assert database.retry(first, next_try=0)
    assert database.set_aside(second)
    assert third.token == NOW
    assert database.release(older_than=NOW + 1) == 1
    again = next(claim for claim in database.claim() if claim.digest == first.digest)
    assert database.complete(again)

    states = {database.layer(digest).state for digest in (A, B, C)}
    assert states == {"brewed", "set aside", "being brewed"}
