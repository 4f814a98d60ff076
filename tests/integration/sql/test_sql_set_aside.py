"""Operators retry or drop layers that were set aside."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from core.errors import LayersDropped
from sql.requeue import drop_layers
from sql.tables import Priority
from sql.transaction import transaction
from tests.integration.sql.database import NOW, Database, digest_of

A, B, C, D = (digest_of(name) for name in "abcd")


@pytest.fixture
def two_set_aside(database: Database) -> Database:
    """A and B were set aside for different reasons, C is brewed, D waits."""
    database.enqueue(A, now=NOW - 4)
    database.enqueue(B, now=NOW - 3)
    database.enqueue(C, now=NOW - 2)
    database.enqueue(D, now=NOW - 1)
    database.set_aside(database.claim_one(), reason="the source answers 404: 100% gone")
    database.set_aside(database.claim_one(), reason="Digest mismatch")
    database.complete(database.claim_one())
    return database


def test_all_are_retried(two_set_aside: Database) -> None:
    assert two_set_aside.retry_failed_layers() == 2
    assert two_set_aside.retry_failed_layers() == 0
    claims = two_set_aside.claim(now=NOW)
    assert [(claim.digest, claim.attempts) for claim in claims] == [(A, 0), (B, 0), (D, 0)]


def test_the_reason_stays_recorded(two_set_aside: Database) -> None:
    two_set_aside.retry_failed_layers()
    layer = two_set_aside.layer(B)
    assert (layer.state, layer.reason) == ("waiting", "Digest mismatch")


@pytest.mark.parametrize(
    ("reason_like", "digests"),
    [
        ("digest", [B]),
        ("100%", [A]),
        ("%", [A]),
        ("_", []),
        ("/", []),
        ("the … answers ……: 100%", [A]),
        ("", [A, B]),
    ],
)
def test_layers_are_retried_by_a_part_of_their_reason(
    two_set_aside: Database, reason_like: str, digests: list[str]
) -> None:
    assert two_set_aside.retry_failed_layers(reason_like=reason_like) == len(digests)
    assert [digest for digest in (A, B) if two_set_aside.layer(digest).state == "waiting"] == digests


def test_a_layer_is_retried_by_its_digest(two_set_aside: Database) -> None:
    assert two_set_aside.retry_failed_layers(digest=B) == 1
    assert two_set_aside.retry_failed_layers(digest=C) == 0
    assert two_set_aside.retry_failed_layers(digest=D) == 0
    assert two_set_aside.layer(A).state == "set aside"


def test_a_delayed_layer_may_be_retried_at_once(two_set_aside: Database) -> None:
    assert two_set_aside.retry(two_set_aside.claim_one(), reason="registry down", next_try=NOW + 9000)
    assert two_set_aside.claim(now=NOW) == []
    assert two_set_aside.retry_failed_layers(reason_like="down") == 1
    assert [(claim.digest, claim.attempts) for claim in two_set_aside.claim(now=NOW)] == [(D, 0)]
    # Now it is locked.
    assert two_set_aside.retry_failed_layers(digest=D) == 0


def test_a_dropped_layer_is_forgotten_and_may_be_queued_again(two_set_aside: Database) -> None:
    assert two_set_aside.drop(reason_like="mismatch") == 1
    assert str(B) not in two_set_aside.mapping()
    assert two_set_aside.enqueue(B, scope="team/new") == 1
    assert two_set_aside.layer(B).scopes == ("team/new",)
    assert two_set_aside.layer(B).attempts == 0


def test_a_layer_pushed_during_a_drop_is_queued(database: Database) -> None:
    database.enqueue(A, scope="team/old")
    database.set_aside(database.claim_one(), reason="no blob")
    with ThreadPoolExecutor(1) as pool:
        with transaction(database.engine) as connection:
            assert drop_layers(connection, database.tables, reason_like="no blob") == 1
            pushing = pool.submit(database.enqueue, A, priority=Priority.PUSHED, scope="team/new")
            with pytest.raises(TimeoutError):
                pushing.result(0.5)
        try:
            assert pushing.result() == 1
        except LayersDropped:
            # On PostgreSQL; SQLite waits before it reads.
            assert database.mapping() == {}
            assert database.enqueue(A, priority=Priority.PUSHED, scope="team/new") == 1
    layer = database.layer(A)
    assert (layer.state, layer.attempts, layer.scopes) == ("waiting", 0, ("team/new",))
    assert database.claim_one().digest == A


def test_dropping_all_leaves_waiting_and_brewed_layers(two_set_aside: Database) -> None:
    assert two_set_aside.drop() == 2
    assert set(two_set_aside.mapping()) == {str(C), str(D)}


def test_a_waiting_layer_is_dropped_by_its_digest_only(two_set_aside: Database) -> None:
    assert two_set_aside.drop(digest=D) == 1
    assert str(D) not in two_set_aside.mapping()
    assert two_set_aside.drop(digest=D) == 0


def test_brewed_and_locked_layers_are_never_dropped(two_set_aside: Database) -> None:
    claim = two_set_aside.claim_one()
    assert claim.digest == D
    assert two_set_aside.drop(digest=D) == 0
    assert two_set_aside.drop(digest=C) == 0
    assert two_set_aside.complete(claim)
