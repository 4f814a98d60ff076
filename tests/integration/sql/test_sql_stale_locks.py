"""Layers of a dead brewer are released, those of a live one are not."""

from __future__ import annotations

import time

from sql.manifests import due_manifests, enqueue_manifests
from sql.tables import Priority
from sql.transaction import database_time, transaction
from tests.integration.sql.database import NOW, Database, digest_of

A, B, C = (digest_of(name) for name in "abc")


def test_a_stale_lock_is_released_and_counts_as_an_attempt(database: Database) -> None:
    database.enqueue(A)
    database.claim_one(now=NOW, brewer="dead:7")
    assert database.release(older_than=NOW) == 0
    assert database.release(older_than=NOW + 1) == 1
    layer = database.layer(A)
    assert (layer.state, layer.attempts) == ("waiting", 1)
    assert layer.reason == "brewer dead:7 vanished"
    assert database.claim_one(now=NOW + 1).attempts == 1


def test_a_renewed_lock_is_not_stale(database: Database) -> None:
    database.enqueue(A, B)
    claims = database.claim(2, now=NOW)
    [kept] = database.renew(claims[:1], now=NOW + 200)
    assert database.release(older_than=NOW + 100) == 1
    assert database.layer(kept.digest).state == "being brewed"
    assert database.complete(kept)


def test_a_layer_that_kills_its_brewers_is_set_aside(database: Database) -> None:
    database.enqueue(A)
    for attempt in range(1, 4):
        assert database.claim_one(now=NOW + attempt, brewer=f"host:{attempt}").attempts == attempt - 1
        assert database.release(older_than=NOW + attempt + 1, max_attempts=3) == 1
    layer = database.layer(A)
    assert (layer.state, layer.attempts, layer.reason) == ("set aside", 3, "brewer host:3 vanished")
    assert database.claim(now=NOW + 10**6) == []


def test_a_lock_set_by_hand_is_released_without_counting(database: Database) -> None:
    database.execute(f"INSERT INTO rbtorrent_mapping (digest, added, brew_lock) VALUES ('{A}', 1, 5)")
    database.enqueue(B)
    database.execute(f"UPDATE rbtorrent_mapping SET brew_lock = 6 WHERE digest = '{B}'")
    assert database.release(older_than=NOW, max_attempts=1) == 2
    assert database.adopt() == 1
    claims = database.claim()
    assert {claim.digest for claim in claims} == {A, B}
    assert {claim.attempts for claim in claims} == {0}


def test_a_lock_from_the_future_is_released_without_counting(database: Database) -> None:
    database.enqueue(A, B)
    now = int(time.time())
    ahead, _ = database.claim(1, now=now + 36_000), database.claim(1, now=now)
    assert database.release_future(ahead=36_000) == 0
    assert database.release_future(ahead=3600) == 1
    layer = database.layer(ahead[0].digest)
    assert (layer.state, layer.attempts) == ("waiting", 0)
    assert database.status().locked_count == 1
    assert not database.complete(ahead[0])


def test_a_retry_in_the_far_future_is_due_at_once(database: Database) -> None:
    database.enqueue(A, B)
    first, second = database.claim(2)
    database.retry(first, next_try=NOW + 1000)
    database.retry(second, next_try=NOW + 10**8)
    with transaction(database.engine) as connection:
        enqueue_manifests(
            connection, database.tables, [("scope", A)], priority=Priority.PUSHED, now=NOW + 10**8
        )
    assert database.bring_forward(latest=NOW + 1000) == 2
    assert [claim.digest for claim in database.claim()] == [second.digest]
    with transaction(database.engine) as connection:
        [due] = due_manifests(connection, database.tables, now=NOW, limit=10)
    assert due.digest == A


def test_the_time_is_that_of_the_database(database: Database) -> None:
    with transaction(database.engine) as connection:
        before, between, after = int(time.time()), database_time(connection), int(time.time())
    assert before <= between <= after


def test_brewed_layers_are_left_alone_even_with_a_lock(database: Database) -> None:
    database.execute(
        f"INSERT INTO rbtorrent_mapping (digest, rbtorrent_id, added, brew_lock, brewed) "
        f"VALUES ('{A}', 'rbtorrent:a', 1, 2, 3)"
    )
    assert database.release(older_than=NOW) == 0
    assert database.mapping()[str(A)].brew_lock == 2


def test_thousands_of_stale_locks_are_released_at_once(database: Database) -> None:
    digests = [digest_of(number) for number in range(2_300)]
    database.enqueue(*digests)
    database.execute(f"UPDATE rbtorrent_mapping SET brew_lock = {NOW}")
    assert database.release(older_than=NOW + 1) == 2_300
    assert database.status().locked_count == 0


def test_a_layer_failed_or_released_in_time_is_not_counted_again(database: Database) -> None:
    database.enqueue(A, B, C)
    first, second, third = database.claim(3)
    database.retry(first)
    database.return_claims([second])
    database.set_aside(third)
    assert database.release(older_than=NOW + 10**6) == 0
    assert [database.layer(claim.digest).attempts for claim in (first, second, third)] == [1, 0, 1]
