"""Layers that were brewed here go back to the queue; those of an older service stay."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from core.digest import Digest
from core.layer import Layer
from sql.layers import find_rbtorrent_ids
from sql.legacy_ids import LegacyId, adopt_legacy_ids
from sql.requeue import BrewedLayer, find_brewed_layer, list_brewed_here, requeue_brewed
from sql.tables import Priority
from sql.transaction import reading, transaction
from tests.integration.sql.database import NOW, Database, digest_of, rbtorrent_id_of

A, B, C, D = sorted(digest_of(name) for name in "abcd")


def brewed(database: Database, *digests: Digest, now: int = NOW - 100) -> None:
    for digest in digests:
        database.enqueue(digest, priority=Priority.BACKFILLED, now=now)
        database.complete(database.claim_one(now=now), size=77, now=now)


def find(database: Database, digest: Digest) -> BrewedLayer | None:
    with reading(database.engine) as connection:
        return find_brewed_layer(connection, database.tables, digest)


def requeued(database: Database, *layers: BrewedLayer | None, priority: Priority = Priority.ASKED) -> int:
    with transaction(database.engine) as connection:
        known = [layer for layer in layers if layer is not None]
        return requeue_brewed(connection, database.tables, known, priority=priority, now=NOW)


def take_over(database: Database, *digests: Digest) -> None:
    ids = [LegacyId(digest, rbtorrent_id_of(digest)) for digest in digests]
    with transaction(database.engine) as connection:
        outcomes = adopt_legacy_ids(connection, database.tables, ids, now=NOW - 50)
    assert set(outcomes.values()) == {"taken"}


def walk(
    database: Database, after: Digest | str = "", limit: int = 100
) -> tuple[list[Digest], Digest | None]:
    with reading(database.engine) as connection:
        found, last = list_brewed_here(connection, database.tables, after=str(after), limit=limit)
    return [layer.digest for layer in found], Digest.parse(last) if last else None


def test_a_brewed_layer_waits_again_without_its_id(database: Database) -> None:
    brewed(database, A, B)

    assert requeued(database, find(database, A)) == 1

    layer = database.layer(A)
    assert (layer.state, layer.rbtorrent_id, layer.brewed) == ("waiting", None, None)
    assert (layer.priority, layer.attempts, layer.size) == (Priority.ASKED, 0, 77)
    assert layer.scopes == ("library/ubuntu",)
    # The row keeps its age, the wait starts now.
    assert layer.added == NOW - 100
    assert database.status().oldest_waiting == NOW
    with reading(database.engine) as connection:
        assert set(find_rbtorrent_ids(connection, database.tables, [A, B])) == {B}


def test_a_requeued_layer_is_claimed_and_gets_the_same_id(database: Database) -> None:
    brewed(database, A)
    requeued(database, find(database, A))

    claim = database.claim_one()

    assert (claim.digest, claim.layer.size, claim.attempts) == (A, 77, 0)
    assert find(database, A) is None
    assert database.complete(claim)
    assert database.layer(A).rbtorrent_id == rbtorrent_id_of(A)
    assert find(database, A) == BrewedLayer(A, NOW, here=True)


def test_many_layers_are_queued_at_once(database: Database) -> None:
    brewed(database, A, B, C)
    layers = [find(database, digest) for digest in (C, A, B)]
    assert requeued(database, *layers, priority=Priority.BACKFILLED) == 3
    assert requeued(database) == 0
    assert database.status().waiting[Priority.BACKFILLED] == 3


def test_a_layer_brewed_again_or_forgotten_since_is_unchanged(database: Database) -> None:
    brewed(database, A, B)
    old, missing = find(database, A), find(database, B)
    requeued(database, old)
    database.complete(database.claim_one())
    database.execute(f"DELETE FROM rbtorrent_mapping WHERE digest = '{B}'")

    assert requeued(database, old, missing) == 0
    assert database.layer(A).state == "brewed"
    assert str(B) not in database.mapping()


def test_only_one_of_many_concurrent_callers_queues_it(database: Database) -> None:
    brewed(database, A, B, C)
    layers = [find(database, digest) for digest in (A, B, C)]
    with ThreadPoolExecutor(8) as pool:
        queued = list(pool.map(lambda _: requeued(database, *layers), range(8)))
    assert sorted(queued) == [0] * 7 + [3]
    assert database.status().waiting_count == 3


@pytest.mark.parametrize("before", ["unknown", "waiting", "delayed", "set aside", "freed"])
def test_a_layer_with_an_adopted_id_keeps_it(database: Database, before: str) -> None:
    if before != "unknown":
        database.enqueue(A)
    if before == "delayed":
        database.retry(database.claim_one(), next_try=NOW + 10**6)
    if before == "set aside":
        database.set_aside(database.claim_one())
    if before == "freed":
        database.return_claims([database.claim_one()])
    take_over(database, A)

    found = find(database, A)

    assert found == BrewedLayer(A, NOW - 50, here=False)
    assert requeued(database, found) == 0
    assert database.layer(A).rbtorrent_id == rbtorrent_id_of(A)
    assert walk(database) == ([], A)


def test_a_row_that_the_older_service_wrote_was_not_brewed_here(database: Database) -> None:
    database.execute(
        f"INSERT INTO rbtorrent_mapping (digest, rbtorrent_id, added, brewed) VALUES ('{A}', 'x', 1, 2)"
    )
    # Tried here, delayed, and then brewed by another program.
    database.enqueue(B)
    database.retry(database.claim_one(), next_try=NOW + 10**6)
    database.execute(f"UPDATE rbtorrent_mapping SET rbtorrent_id = 'y', brewed = 2 WHERE digest = '{B}'")
    assert find(database, A) == BrewedLayer(A, 2, here=False)
    assert find(database, B) == BrewedLayer(B, 2, here=False)
    assert walk(database)[0] == []


def test_a_lost_layer_may_get_an_old_id_instead(database: Database) -> None:
    brewed(database, A)
    requeued(database, find(database, A))
    take_over(database, A)
    found = find(database, A)
    assert found is not None
    assert not found.here
    assert database.claim() == []


def test_unbrewed_layers_are_not_found(database: Database) -> None:
    database.enqueue(A)
    database.enqueue(B)
    database.set_aside(database.claim_one())
    assert [find(database, digest) for digest in (A, B, C)] == [None] * 3


def test_the_walk_covers_layers_brewed_here_in_steps(database: Database) -> None:
    brewed(database, A, C)
    take_over(database, B)
    database.enqueue_all([Layer(D)])
    assert walk(database) == ([A, C], D)
    assert walk(database, limit=2) == ([A], B)
    assert walk(database, after=B, limit=2) == ([C], D)
    assert walk(database, after=D) == ([], None)
