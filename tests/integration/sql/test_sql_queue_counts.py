"""The metrics of the queue, on every database."""

from __future__ import annotations

import pytest

from core.errors import DatabaseDown
from sql import queue_counts
from sql.queue_counts import QueueMetrics, read_queue
from sql.tables import Priority
from sql.transaction import reading, transaction
from tests.integration.sql.database import NOW, Database, digest_of

A, B, C, D, E, F, G = (digest_of(name) for name in "abcdefg")


def read(database: Database, now: int = NOW) -> QueueMetrics:
    with reading(database.engine) as connection:
        return read_queue(connection, database.tables, now=now)


def test_an_empty_queue_has_all_states_and_no_oldest_layer(database: Database) -> None:
    metrics = read(database)

    assert len(metrics.layers) == 16
    assert set(metrics.layers.values()) == {0}
    assert (metrics.oldest_waiting, metrics.last_brewed) == ({}, None)


def test_layers_are_counted_by_state_and_priority(database: Database) -> None:
    database.enqueue(A, now=NOW - 100)
    database.enqueue(B, now=NOW - 90)
    database.enqueue(C, now=NOW - 80)
    database.enqueue(D, now=NOW - 70)
    database.enqueue(E, now=NOW - 60)
    database.enqueue(F, priority=Priority.SCANNED, now=NOW - 50)
    database.complete(database.claim_one(), now=NOW - 30)
    database.retry(database.claim_one(), next_try=NOW + 10)
    database.set_aside(database.claim_one())
    database.claim_one()
    metrics = read(database)

    assert {labels: n for labels, n in metrics.layers.items() if n} == {
        ("waiting", "pushed"): 1,
        ("delayed", "pushed"): 1,
        ("set_aside", "pushed"): 1,
        ("locked", "pushed"): 1,
        ("waiting", "scanned"): 1,
    }
    assert metrics.oldest_waiting == {"pushed": 60, "scanned": 50}
    assert metrics.last_brewed == 30


def test_a_layer_added_in_the_future_has_no_negative_age(database: Database) -> None:
    database.enqueue(A, now=NOW + 100)

    assert read(database).oldest_waiting == {"pushed": 0}


def test_a_layer_brewed_in_the_future_is_not_the_last_one(database: Database) -> None:
    for digest, ago in ((A, 70), (B, -1)):
        database.enqueue(digest)
        database.complete(database.claim_one(), now=NOW - ago)

    assert read(database).last_brewed == 70


def test_layers_locked_by_hand_without_a_queue_row_are_left_out(database: Database) -> None:
    database.execute(f"INSERT INTO rbtorrent_mapping (digest, added, brew_lock) VALUES ('{G}', 1, {NOW})")

    assert set(read(database).layers.values()) == {0}


def test_a_database_that_hangs_is_abandoned(on_postgres: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue_counts, "MAX_SECONDS", 0.1)
    with transaction(on_postgres.engine) as other:
        other.exec_driver_sql(f"LOCK TABLE {on_postgres.tables.queue.name} IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(DatabaseDown, match="no answer in time"):
            read(on_postgres)
