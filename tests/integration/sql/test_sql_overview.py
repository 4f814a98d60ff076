"""The queue on the status page: the numbers of `queue status`, from a bounded number of rows."""

from __future__ import annotations

import re

import pytest
import sqlalchemy as sa

from core.layer import Layer
from sql import failures, queue_counts, scopes
from sql.failures import FailureReason, list_failure_reasons, list_recent_failures
from sql.history import measure_queue
from sql.queue_counts import count_queue, read_queue
from sql.scopes import BusyRepository, list_busy_repositories
from sql.transaction import reading, transaction
from tests.integration.sql.database import NOW, Database, digest_of


@pytest.fixture
def busy(database: Database) -> Database:
    """Two layers wait, one is locked, one delayed, three set aside for two reasons, one is brewed."""
    for number in range(8):
        database.enqueue(digest_of(number), size=100, scope=f"library/{number % 2}", now=NOW - 100 + number)
    brewed, delayed, *failed = database.claim(5)
    database.complete(brewed, size=100)
    database.retry(delayed, reason="registry is slow", next_try=NOW + 50)
    for number, claim in enumerate(failed):
        reason = f"the blob has {number + 5} bytes" if number < 2 else "no such blob"
        database.set_aside(claim, reason=reason)
    database.claim_one()
    return database


def test_the_counts_are_those_of_queue_status(busy: Database) -> None:
    with reading(busy.engine) as connection:
        counts = count_queue(connection, busy.tables, now=NOW)
    status = busy.status()

    assert (counts.waiting, counts.delayed) == (status.waiting_count, status.delayed) == (3, 1)
    assert (counts.locked, counts.set_aside) == (status.locked_count, status.set_aside_count) == (1, 3)
    # `queue status` includes delayed layers.
    assert counts.oldest_waiting == NOW - 100 + 6


def test_counting_stops_at_the_limit(busy: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_counts, "MAX_COUNTED", 2)
    with reading(busy.engine) as connection:
        counts = count_queue(connection, busy.tables, now=NOW)

    assert (counts.waiting, counts.set_aside, counts.locked) == (2, 2, 1)


def test_failures_are_counted_by_reason(busy: Database) -> None:
    with reading(busy.engine) as connection:
        reasons = list_failure_reasons(connection, busy.tables, now=NOW)

    assert reasons == [
        FailureReason("the blob has … bytes", 2, 0),
        FailureReason("no such blob", 1, 0),
        FailureReason("registry is slow", 0, 1),
    ]


def test_repositories_are_busy_by_the_newest_layers(busy: Database) -> None:
    with reading(busy.engine) as connection:
        repositories = list_busy_repositories(connection, busy.tables, limit=10)
        [first] = list_busy_repositories(connection, busy.tables, limit=1)

    assert repositories == [
        BusyRepository("library/0", 4, 1, 400),
        BusyRepository("library/1", 4, 0, 400),
    ]
    assert first.scope == "library/0"


def test_old_layers_do_not_make_a_repository_busy(busy: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scopes, "NEWEST", 1)
    with reading(busy.engine) as connection:
        repositories = list_busy_repositories(connection, busy.tables, limit=10)

    assert [(one.scope, one.layers) for one in repositories] == [("library/1", 1)]


def test_an_empty_database_has_nothing_to_show(database: Database) -> None:
    with reading(database.engine) as connection:
        counts = count_queue(connection, database.tables, now=NOW)
        assert (counts.waiting, counts.locked, counts.set_aside, counts.oldest_waiting) == (0, 0, 0, None)
        assert list_failure_reasons(connection, database.tables, now=NOW) == []
        assert list_busy_repositories(connection, database.tables, limit=10) == []


def test_rows_at_the_end_of_a_large_table_are_found_by_an_index(
    on_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sequential scan that stops at a limit seems cheap if such rows are spread evenly, but they are not."""
    monkeypatch.setattr(queue_counts, "MAX_COUNTED", 100)
    monkeypatch.setattr(failures, "_MAX_COUNTED", 100)
    queue, brewed, last = on_postgres.tables.queue.name, 20_000, 32_000
    kinds = f"CASE WHEN i <= {brewed} OR mod(i, 3) = 0 THEN NULL WHEN mod(i, 3) = 1 THEN 0 ELSE {NOW} + i END"
    on_postgres.execute(
        f"INSERT INTO {queue} (digest, priority, added, next_try, reason) "
        f"SELECT 'sha256:' || lpad(to_hex(i), 64, '0'), 1, i, {kinds}, "
        f"CASE WHEN i > {brewed} AND mod(i, 3) <> 1 THEN 'a reason' END FROM generate_series(1, {last}) AS i"
    )
    plans: list[str] = []

    def explain(
        connection: sa.Connection, cursor: object, statement: str, parameters: object, *_: object
    ) -> None:
        if re.match("SELECT|WITH", statement):
            plans.extend(connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars())  # type: ignore[arg-type]

    with transaction(on_postgres.engine) as connection:
        connection.exec_driver_sql(f"ANALYZE {queue}")
        sa.event.listen(connection, "before_cursor_execute", explain)
        count_queue(connection, on_postgres.tables, now=NOW)
        list_failure_reasons(connection, on_postgres.tables, now=NOW)

    assert [plan for plan in plans if f"Index Scan using {queue}_" in plan]
    assert [plan for plan in plans if re.search(f"(Seq Scan|Bitmap Heap Scan) on {queue}", plan)] == []


def test_no_query_scans_a_whole_table(database: Database) -> None:
    """Check the plans of both engines, with sequential scans of small tables disabled in PostgreSQL."""
    plans: list[str] = []

    def explain(
        connection: sa.Connection, cursor: object, statement: str, parameters: object, *_: object
    ) -> None:
        if statement.startswith("EXPLAIN") or not re.match(r"(SELECT|WITH)", statement):
            return
        kind = "EXPLAIN " if database.engine.name == "postgresql" else "EXPLAIN QUERY PLAN "
        rows = connection.exec_driver_sql(kind + statement, parameters)  # type: ignore[arg-type]
        plans.extend(str(row[-1]) for row in rows)

    database.enqueue_all([Layer(digest_of(n), (f"library/{n % 9}",), n) for n in range(200)])
    with transaction(database.engine) as connection:
        if database.engine.name == "postgresql":
            connection.exec_driver_sql("ANALYZE")
            connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        sa.event.listen(connection, "before_cursor_execute", explain)
        count_queue(connection, database.tables, now=NOW)
        list_failure_reasons(connection, database.tables, now=NOW)
        list_busy_repositories(connection, database.tables, limit=10)
        list_recent_failures(connection, database.tables, limit=10)
        measure_queue(connection, database.tables, now=NOW)
        read_queue(connection, database.tables, now=NOW)

    scans = [
        plan
        for plan in plans
        if re.search(r"Seq Scan on rbtorrent|SCAN rbtorrent_\S+$|SCAN rbtorrent_\S+ USING COVERING", plan)
    ]
    assert len(plans) > 20
    assert scans == []
