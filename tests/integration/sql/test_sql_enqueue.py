"""Layers that enter the queue: new, known already, or inserted into the mapping by hand."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from core.layer import Layer
from sql.enqueue import enqueue_layers
from sql.tables import Priority
from sql.transaction import transaction
from tests.integration.sql.database import NOW, Database, digest_of, rbtorrent_id_of

A, B, C = (digest_of(name) for name in "abc")


def test_a_new_layer_gets_a_row_in_the_mapping_and_waits(database: Database) -> None:
    assert database.enqueue(A, size=5, scope="library/ubuntu", priority=Priority.SCANNED, now=NOW) == 1
    assert tuple(database.mapping()[str(A)]) == (str(A), None, NOW, None, None)
    layer = database.layer(A)
    assert (layer.state, layer.size, layer.scopes) == ("waiting", 5, ("library/ubuntu",))
    assert (layer.priority, layer.attempts) == (Priority.SCANNED, 0)


def test_enqueueing_nothing_changes_nothing(database: Database) -> None:
    assert database.enqueue() == 0
    assert database.mapping() == {}


def test_enqueueing_again_changes_nothing(database: Database) -> None:
    database.enqueue(A, size=5, now=NOW)
    before = database.layer(A), database.mapping()
    assert database.enqueue(A, size=6, now=NOW + 100) == 0
    assert database.enqueue(A, priority=Priority.BACKFILLED, now=NOW + 100) == 0
    assert (database.layer(A), database.mapping()) == before


def test_only_new_layers_are_counted(database: Database) -> None:
    database.enqueue(A)
    assert database.enqueue(A, B, C, B) == 2


def test_a_more_urgent_request_moves_a_layer_forward(database: Database) -> None:
    database.enqueue(A, priority=Priority.BACKFILLED, now=NOW)
    database.enqueue(B, priority=Priority.PUSHED, now=NOW)
    assert database.enqueue(A, priority=Priority.ASKED, now=NOW + 9) == 0
    assert [claim.digest for claim in database.claim()] == [A, B]
    assert database.layer(A).added == NOW


def test_a_delayed_layer_that_is_requested_is_urgent_once_it_is_due(database: Database) -> None:
    database.enqueue(A, priority=Priority.BACKFILLED)
    database.retry(database.claim_one(), next_try=NOW + 50)
    database.enqueue(A, priority=Priority.ASKED)
    assert database.claim(now=NOW + 49) == []
    assert database.claim_one(now=NOW + 50).priority == Priority.ASKED


def test_a_delayed_layer_that_is_pushed_is_due_at_once_with_its_attempts(database: Database) -> None:
    database.enqueue(A, B, priority=Priority.BACKFILLED)
    for claim in database.claim(2):
        database.retry(claim, next_try=NOW + 3600)
    assert database.enqueue(A, priority=Priority.PUSHED) == 0
    claim = database.claim_one()
    assert (claim.digest, claim.priority, claim.attempts) == (A, Priority.PUSHED, 1)
    assert database.claim() == []


def test_an_unknown_size_is_filled_in_and_a_known_one_stays(database: Database) -> None:
    database.enqueue(A)
    assert database.enqueue(A, size=7) == 0
    assert database.layer(A).size == 7
    database.enqueue(A, size=8)
    assert database.layer(A).size == 7


def test_each_scope_is_recorded_once(database: Database) -> None:
    layers = [Layer(A, ("team/b",), 1), Layer(A, ("team/a",), None), Layer(B, (), 2)]
    assert database.enqueue_all(layers) == 2
    database.enqueue_all(layers)
    assert database.layer(A).scopes == ("team/a", "team/b")
    assert database.layer(A).size == 1
    assert database.layer(B).scopes == ()


def test_a_brewed_layer_is_not_queued_but_its_new_scope_is_recorded(database: Database) -> None:
    database.enqueue(A, size=5, scope="team/a")
    database.complete(database.claim_one(), size=5)
    before = database.mapping()
    assert database.enqueue(A, scope="team/b", priority=Priority.ASKED) == 0
    assert database.mapping() == before
    assert database.layer(A).scopes == ("team/a", "team/b")
    assert database.claim() == []


def test_a_layer_brewed_without_the_queue_stays_out_of_it(database: Database) -> None:
    database.execute(
        "INSERT INTO rbtorrent_mapping (digest, rbtorrent_id, added, brewed) "
        f"VALUES ('{A}', 'rbtorrent:aa', 1, 2)"
    )
    assert database.enqueue(A, size=3, priority=Priority.ASKED) == 0
    assert database.adopt() == 0
    assert database.claim() == []
    assert database.layer(A).state == "brewed"


def test_a_locked_layer_stays_with_its_brewer(database: Database) -> None:
    database.enqueue(A, priority=Priority.BACKFILLED)
    claim = database.claim_one()
    assert database.enqueue(A, priority=Priority.ASKED) == 0
    assert database.claim() == []
    assert database.complete(claim)


@pytest.mark.parametrize("layers", [10_000, 12_345])
def test_a_manifest_of_ten_thousand_layers_is_queued(database: Database, layers: int) -> None:
    asked = [Layer(digest_of(number), ("team/a",), number) for number in range(layers)]
    assert database.enqueue_all(asked) == layers
    assert database.enqueue_all(asked) == 0
    assert len(database.mapping()) == layers


def test_enqueueing_known_layers_writes_nothing(on_postgres: Database) -> None:
    layers = [Layer(digest_of(number), ("team/a",), number) for number in range(20)]
    on_postgres.enqueue_all(layers, Priority.PUSHED)
    on_postgres.complete(on_postgres.claim_one())
    with transaction(on_postgres.engine) as connection:
        for _ in range(2):
            enqueue_layers(connection, on_postgres.tables, layers, priority=Priority.SCANNED, now=NOW + 1)
        # PostgreSQL numbers a transaction when it first writes, or locks a row.
        assert connection.scalar(sa.text("SELECT pg_current_xact_id_if_assigned()")) is None


@pytest.mark.parametrize("priority", [Priority.PUSHED, Priority.SCANNED, Priority.BACKFILLED])
def test_a_layer_set_aside_is_queued_again_when_pushed_or_found(
    database: Database, priority: Priority
) -> None:
    database.enqueue(A, scope="team/a")
    database.set_aside(database.claim_one(), reason="no blob")
    assert database.enqueue(A, priority=priority, scope="team/b") == 0
    layer = database.layer(A)
    assert (layer.state, layer.attempts, layer.scopes) == ("waiting", 0, ("team/a", "team/b"))
    assert database.claim_one().priority == priority


def test_a_layer_set_aside_stays_so_when_requested(database: Database) -> None:
    database.enqueue(A)
    database.set_aside(database.claim_one(), reason="no blob")
    assert database.enqueue(A, priority=Priority.ASKED, scope="team/b") == 0
    assert (database.layer(A).state, database.layer(A).attempts) == ("set aside", 1)
    assert database.claim() == []


def test_a_row_inserted_by_hand_is_brewed(database: Database) -> None:
    database.execute(f"INSERT INTO rbtorrent_mapping (digest, added) VALUES ('{A}', 123)")
    assert database.claim() == []
    assert database.adopt() == 1
    assert database.adopt() == 0
    claim = database.claim_one()
    assert claim.layer == Layer(A)
    assert claim.priority == Priority.BACKFILLED
    assert database.complete(claim)
    assert database.mapping()[str(A)].rbtorrent_id == rbtorrent_id_of(A)
    assert database.mapping()[str(A)].added == 123


def test_rows_inserted_by_hand_keep_their_own_time(database: Database) -> None:
    database.execute(
        "INSERT INTO rbtorrent_mapping (digest, added) "
        f"VALUES ('{A}', {NOW + 5}), ('{B}', NULL), ('{C}', {NOW - 5})"
    )
    assert database.adopt(now=NOW) == 3
    assert [claim.digest for claim in database.claim()] == [C, B, A]


def test_no_more_than_the_limit_are_adopted(database: Database) -> None:
    values = ", ".join(f"('{digest_of(number)}', {number})" for number in range(7))
    database.execute(f"INSERT INTO rbtorrent_mapping (digest, added) VALUES {values}")
    assert [database.adopt(limit=3) for _ in range(4)] == [3, 3, 1, 0]


def test_a_request_for_a_row_inserted_by_hand_queues_it(database: Database) -> None:
    database.execute(f"INSERT INTO rbtorrent_mapping (digest, added) VALUES ('{A}', 123)")
    assert database.enqueue(A, size=4, priority=Priority.ASKED) == 1
    claim = database.claim_one()
    assert (claim.layer.size, claim.priority) == (4, Priority.ASKED)
    assert database.layer(A).added == 123


def test_a_row_locked_by_hand_is_adopted_and_left_locked(database: Database) -> None:
    database.execute(f"INSERT INTO rbtorrent_mapping (digest, added, brew_lock) VALUES ('{A}', 1, {NOW})")
    assert database.adopt() == 1
    assert database.claim() == []
    assert database.layer(A).state == "being brewed"


def test_a_malformed_row_inserted_by_hand_is_adopted_and_set_aside(database: Database) -> None:
    database.execute("INSERT INTO rbtorrent_mapping (digest, added) VALUES ('not a digest', 1), ('', 2)")
    assert database.adopt() == 2
    assert database.claim() == []
    assert {layer.digest for layer in database.status().set_aside_layers} == {"not a digest", ""}


def test_layers_that_other_programs_brewed_or_deleted_leave_the_queue(database: Database) -> None:
    digests = [digest_of(number) for number in range(1_500)]
    database.enqueue(*digests, C)
    database.execute(f"DELETE FROM rbtorrent_mapping WHERE digest = '{digests[0]}'")
    database.execute(f"UPDATE rbtorrent_mapping SET brewed = 1 WHERE digest <> '{C}'")
    database.adopt()
    assert database.status().waiting_count == 1
    assert [claim.digest for claim in database.claim()] == [C]


def test_a_layer_reset_by_hand_is_brewed_again(database: Database) -> None:
    database.enqueue(A, B, C)
    for claim in database.claim():
        database.complete(claim)
    database.execute(f"UPDATE rbtorrent_mapping SET brewed = NULL, rbtorrent_id = NULL WHERE digest = '{A}'")
    database.execute(f"DELETE FROM rbtorrent_mapping WHERE digest = '{B}'")
    database.execute(f"INSERT INTO rbtorrent_mapping (digest, added) VALUES ('{B}', 1)")
    assert database.adopt() == 2
    assert database.adopt() == 0
    claims = database.claim()
    assert sorted(claim.digest for claim in claims) == sorted([A, B])
    assert all(database.complete(claim) for claim in claims)
