"""Claims: which layers a brewer gets, and the rows after each outcome."""

from __future__ import annotations

import pytest

from core.errors import RbtorrentIdTaken
from sql.claims import claim_layers
from sql.enqueue import enqueue_layers
from sql.layers import find_rbtorrent_ids
from sql.tables import Priority
from sql.transaction import reading, transaction
from tests.integration.sql.database import NOW, Database, digest_of, rbtorrent_id_of

A, B, C, D = (digest_of(name) for name in "abcd")


def test_a_claim_has_everything_that_brewing_needs(database: Database) -> None:
    database.enqueue(A, size=123, scope="team/two", priority=Priority.ASKED)
    database.enqueue(A, scope="team/one")
    [claim] = database.claim(now=NOW + 5)
    assert claim.digest == A
    assert claim.layer.size == 123
    assert claim.layer.scopes == ("team/one", "team/two")
    assert claim.priority == Priority.ASKED
    assert claim.attempts == 0
    assert claim.token == NOW + 5


def test_an_empty_queue_has_nothing_to_claim(database: Database) -> None:
    assert database.claim() == []


def test_claims_are_ordered_by_priority_and_then_by_age(database: Database) -> None:
    database.enqueue(A, priority=Priority.BACKFILLED, now=NOW)
    database.enqueue(B, priority=Priority.PUSHED, now=NOW + 3)
    database.enqueue(C, priority=Priority.PUSHED, now=NOW + 2)
    database.enqueue(D, priority=Priority.ASKED, now=NOW + 4)
    assert [claim.digest for claim in database.claim(3)] == [D, C, B]
    assert [claim.digest for claim in database.claim(3)] == [A]


def test_no_more_than_the_limit_are_claimed_and_none_twice(database: Database) -> None:
    digests = {digest_of(number) for number in range(25)}
    database.enqueue(*digests)
    chunks = [[claim.digest for claim in database.claim(10)] for _ in range(4)]
    assert [len(chunk) for chunk in chunks] == [10, 10, 5, 0]
    assert {digest for chunk in chunks for digest in chunk} == digests


@pytest.mark.parametrize("rows", [1, 3, 40, 700])
def test_the_limit_holds_when_the_planner_runs_a_subquery_in_a_loop(on_postgres: Database, rows: int) -> None:
    on_postgres.enqueue(*(digest_of(number) for number in range(rows)))
    with on_postgres.engine.begin() as connection:
        # With these off, an UPDATE with LIMIT in a bare subquery takes all rows, one per iteration.
        for method in ("hashjoin", "mergejoin", "hashagg", "sort", "material", "memoize"):
            connection.exec_driver_sql(f"SET LOCAL enable_{method} = off")
        claims = claim_layers(connection, on_postgres.tables, now=NOW, limit=2, brewer="host:1")
    assert len(claims) == min(2, rows)
    assert on_postgres.status().locked_count == len(claims)


def test_a_completed_layer_has_its_id_and_is_unlocked(database: Database) -> None:
    database.enqueue(A, now=NOW - 10)
    assert database.complete(database.claim_one(), rbtorrent_id="rbtorrent:aa", size=77, now=NOW + 9)
    assert tuple(database.mapping()[str(A)]) == (str(A), "rbtorrent:aa", NOW - 10, None, NOW + 9)
    layer = database.layer(A)
    assert (layer.state, layer.size, layer.claimed, layer.brewer) == ("brewed", 77, None, "host:1")
    assert database.claim() == []


def test_ids_are_found_for_brewed_layers_only(database: Database) -> None:
    database.enqueue(A, B, C)
    first, second = database.claim(2)
    database.complete(first)
    with reading(database.engine) as connection:
        found = find_rbtorrent_ids(connection, database.tables, [A, B, C, D])
        assert found == {first.digest: rbtorrent_id_of(first.digest)}
        assert find_rbtorrent_ids(connection, database.tables, []) == {}
    assert second.digest not in found


def test_ten_thousand_digests_are_looked_up_at_once(database: Database) -> None:
    database.enqueue(A)
    database.complete(database.claim_one())
    with reading(database.engine) as connection:
        asked = [*(digest_of(number) for number in range(9_999)), A]
        assert set(find_rbtorrent_ids(connection, database.tables, asked)) == {A}


def test_renewing_gives_a_new_token_and_only_that_one_counts(database: Database) -> None:
    database.enqueue(A)
    old = database.claim_one(now=NOW)
    [new] = database.renew([old], now=NOW + 100)
    assert new.token == NOW + 100
    assert not database.complete(old)
    assert database.layer(A).state == "being brewed"
    assert database.complete(new)


def test_renewing_leaves_out_lost_and_finished_claims(database: Database) -> None:
    database.enqueue(A, B, C)
    kept, lost, finished = database.claim(3, now=NOW)
    database.complete(finished)
    database.execute(f"UPDATE rbtorrent_mapping SET brew_lock = NULL WHERE digest = '{lost.digest}'")
    assert [claim.digest for claim in database.renew([kept, lost, finished], now=NOW + 1)] == [kept.digest]
    assert database.layer(lost.digest).locked is None
    assert database.renew([], now=NOW) == []


def test_claims_of_different_ages_are_renewed_together(database: Database) -> None:
    database.enqueue(A, B)
    claims = [database.claim_one(now=NOW), database.claim_one(now=NOW + 1)]
    renewed = database.renew(claims, now=NOW + 2)
    assert [claim.digest for claim in renewed] == [claim.digest for claim in claims]
    assert {claim.token for claim in renewed} == {NOW + 2}


def test_a_brewer_that_lost_its_lock_changes_nothing(database: Database) -> None:
    database.enqueue(A)
    slow = database.claim_one(now=NOW, brewer="slow:1")
    database.release(older_than=NOW + 300)
    quick = database.claim_one(now=NOW + 301, brewer="quick:1")
    before = database.layer(A)
    assert not database.complete(slow, rbtorrent_id="rbtorrent:wrong")
    assert not database.retry(slow)
    assert not database.set_aside(slow)
    assert database.return_claims([slow]) == 0
    assert database.renew([slow], now=NOW + 302) == []
    assert database.layer(A) == before
    assert database.complete(quick)
    assert not database.complete(slow, rbtorrent_id="rbtorrent:wrong")
    assert database.layer(A).rbtorrent_id == rbtorrent_id_of(A)


def test_a_retried_layer_waits_for_its_time_and_keeps_its_position(database: Database) -> None:
    database.enqueue(A, now=NOW - 100)
    database.enqueue(B, now=NOW - 50)
    assert database.retry(database.claim_one(), reason="slow\nsource", next_try=NOW + 60)
    layer = database.layer(A)
    assert (layer.state, layer.attempts, layer.reason) == ("delayed", 1, "slow source")
    assert layer.next_try == NOW + 60
    assert layer.locked is None
    assert [claim.digest for claim in database.claim(now=NOW + 59)] == [B]
    database.enqueue(C, now=NOW)
    again = database.claim(now=NOW + 60)
    assert [(claim.digest, claim.attempts) for claim in again] == [(A, 1), (C, 0)]


def test_thousands_of_delayed_layers_are_all_claimed_again(database: Database) -> None:
    digests = [digest_of(number) for number in range(2_500)]
    database.enqueue(*digests)
    database.execute(f"UPDATE rbtorrent_mapping_queue SET next_try = {NOW + 10}")
    assert database.claim(now=NOW + 9) == []
    claimed = [claim.digest for _ in range(3) for claim in database.claim(1_000, now=NOW + 10)]
    assert sorted(claimed) == sorted(digests)


def test_a_layer_set_aside_is_not_claimed(database: Database) -> None:
    database.enqueue(A)
    assert database.set_aside(database.claim_one(), reason="not there")
    layer = database.layer(A)
    assert (layer.state, layer.attempts, layer.reason) == ("set aside", 1, "not there")
    assert database.claim(now=NOW + 10**6) == []
    assert database.enqueue(A, priority=Priority.ASKED) == 0
    assert database.adopt() == 0
    assert database.claim(now=NOW + 10**6) == []


def test_released_layers_wait_as_if_never_claimed(database: Database) -> None:
    database.enqueue(A, B)
    claims = database.claim(2)
    assert database.return_claims(claims) == 2
    assert database.layer(A).state == "waiting"
    assert database.layer(A).attempts == 0
    again = database.claim(2, now=NOW + 1)
    assert [claim.digest for claim in again] == [claim.digest for claim in claims]
    assert database.return_claims([]) == 0


def test_an_id_that_another_layer_has_is_a_clear_error(database: Database) -> None:
    database.enqueue(A, B)
    first, second = database.claim(2)
    database.complete(first, rbtorrent_id="rbtorrent:same")
    with pytest.raises(RbtorrentIdTaken, match=f"same of {second.digest} belongs to another") as caught:
        database.complete(second, rbtorrent_id="rbtorrent:same")
    # Nothing was written, and the layer can be set aside.
    assert database.set_aside(second, reason=str(caught.value))
    assert database.layer(second.digest).state == "set aside"


def test_a_layer_that_another_program_brewed_is_not_claimed(database: Database) -> None:
    database.enqueue(A, B)
    database.execute(
        f"UPDATE rbtorrent_mapping SET brewed = {NOW}, rbtorrent_id = 'rbtorrent:x' WHERE digest = '{A}'"
    )
    assert [claim.digest for claim in database.claim()] == [B]


def test_a_completed_layer_is_not_completed_again(database: Database) -> None:
    database.enqueue(A)
    claim = database.claim_one()
    assert database.complete(claim, now=NOW + 1)
    assert not database.complete(claim, now=NOW + 2)
    assert database.layer(A).brewed == NOW + 1


def test_a_claim_that_is_rolled_back_leaves_the_layers_to_others(database: Database) -> None:
    database.enqueue(A)
    with database.engine.connect() as connection:
        assert claim_layers(connection, database.tables, now=NOW, limit=1, brewer="host:1")
        connection.rollback()
    assert len(database.claim()) == 1


@pytest.mark.parametrize(
    ("reason", "kept"),
    [
        ("two\n  lines", "two lines"),
        ("a NUL \0 in it", "a NUL in it"),
        ("half a pair \ud800", "half a pair ?"),
        ("x" * 1000, "x" * 499 + "…"),
    ],
)
def test_any_reason_can_be_stored(database: Database, reason: str, kept: str) -> None:
    database.enqueue(A)
    database.set_aside(database.claim_one(), reason=reason)
    assert database.layer(A).reason == kept


def test_a_malformed_digest_is_set_aside_and_other_rows_are_claimed(database: Database) -> None:
    with transaction(database.engine) as connection:
        enqueue_layers(
            connection,
            database.tables,
            [],
            priority=Priority.PUSHED,
            now=NOW - 1,
            malformed=[("../../etc", "team/a"), ("", "team/a")],
        )
    database.enqueue(A, B)

    assert {claim.digest for claim in database.claim(2)} == {A, B}
    status = database.status()
    assert {layer.digest for layer in status.set_aside_layers} == {"../../etc", ""}
    assert status.set_aside == {"the digest is malformed: expected sha256: and 64 hex digits": 2}
    assert status.locked_count == 2
