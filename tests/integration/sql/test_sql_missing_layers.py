"""Layers that may be missing: the order of checks, and the conditions for forgetting one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.digest import Digest
from core.errors import LayersDropped
from core.layer import Layer
from sql.enqueue import enqueue_layers
from sql.history import find_cursor, save_cursor
from sql.manifests import mark_seen, seen_manifests
from sql.missing_layers import (
    Suspect,
    clear_suspects,
    due_suspects,
    forget_layer,
    list_forgettable_layers,
    postpone_suspects,
    record_misses,
    suspect_layers,
)
from sql.tables import Priority
from sql.transaction import transaction
from tests.integration.sql.database import NOW, Database, digest_of, rbtorrent_id_of

A, B, C, D = sorted(digest_of(name) for name in "abcd")
DAY = 86_400


def brewed(database: Database, *digests: Digest, now: int = NOW - DAY) -> None:
    for digest in digests:
        database.enqueue(digest, now=now)
        database.complete(database.claim_one(now=now), now=now)


def hint(database: Database, *digests: Digest, now: int = NOW) -> int:
    with transaction(database.engine) as connection:
        return suspect_layers(connection, database.tables, digests, now=now)


def due(database: Database, *, now: int = NOW, limit: int = 100) -> list[Suspect]:
    with transaction(database.engine) as connection:
        return due_suspects(connection, database.tables, now=now, limit=limit)


def miss(database: Database, *digests: Digest, now: int = NOW, again: int = NOW + DAY) -> None:
    with transaction(database.engine) as connection:
        record_misses(connection, database.tables, digests, now=now, due=again)


def forget(database: Database, digest: Digest, missed: int | None = NOW) -> bool:
    with transaction(database.engine) as connection:
        return forget_layer(connection, database.tables, Suspect(digest, missed))


def walk(
    database: Database, after: Digest | str = "", limit: int = 100
) -> tuple[list[Digest], Digest | None]:
    with transaction(database.engine) as connection:
        found, last = list_forgettable_layers(connection, database.tables, after=str(after), limit=limit)
    return found, Digest.parse(last) if last else None


def seen(database: Database, scope: str, digests: Sequence[Digest]) -> set[Digest]:
    with transaction(database.engine) as connection:
        return seen_manifests(connection, database.tables, scope, digests)


def test_reported_layers_come_first_and_missed_ones_when_due(database: Database) -> None:
    brewed(database, A, B, C)
    miss(database, A, now=NOW, again=NOW + DAY)
    assert hint(database, B, now=NOW + 5) == 1
    assert due(database, now=NOW + 4) == []
    assert due(database, now=NOW + 5) == [Suspect(B, None)]
    assert due(database, now=NOW + DAY) == [Suspect(B, None), Suspect(A, NOW)]
    assert due(database, now=NOW + DAY, limit=1) == [Suspect(B, None)]


def test_a_report_of_an_unknown_or_missed_layer_changes_nothing(database: Database) -> None:
    brewed(database, A)
    miss(database, A)
    assert hint(database, A, B, A) == 0
    assert due(database, now=NOW + DAY) == [Suspect(A, NOW)]


def test_the_first_miss_counts(database: Database) -> None:
    brewed(database, A)
    hint(database, A, now=NOW - 5)
    miss(database, A, now=NOW)
    miss(database, A, now=NOW + 10, again=NOW + 2 * DAY)
    assert due(database, now=NOW + DAY) == [Suspect(A, NOW)]


def test_a_layer_dropped_since_is_not_a_suspect(database: Database) -> None:
    miss(database, A)
    assert due(database, now=NOW + DAY) == []


def test_a_present_suspect_is_cleared_and_an_unknown_one_is_postponed(database: Database) -> None:
    brewed(database, A, B)
    miss(database, A, B)
    with transaction(database.engine) as connection:
        assert clear_suspects(connection, database.tables, [A, C]) == 1
        postpone_suspects(connection, database.tables, [B], due=NOW + 2 * DAY)
    assert due(database, now=NOW + DAY) == []
    assert due(database, now=NOW + 2 * DAY) == [Suspect(B, NOW)]


def test_the_walk_covers_brewed_and_set_aside_layers_in_steps(database: Database) -> None:
    brewed(database, A)
    database.enqueue(B)
    database.set_aside(database.claim_one())
    database.enqueue(C, now=NOW - 5)
    database.claim_one()
    database.enqueue(D)
    assert walk(database) == ([A, B], D)
    assert walk(database, limit=1) == ([A], A)
    assert walk(database, after=A, limit=2) == ([B], C)
    assert walk(database, after=C) == ([], D)
    assert walk(database, after=D) == ([], None)


def test_a_forgotten_layer_leaves_nothing_behind(database: Database) -> None:
    brewed(database, A, B)
    database.enqueue(A, scope="team/other")
    with transaction(database.engine) as connection:
        for scope in ("library/ubuntu", "team/other", "team/third"):
            mark_seen(connection, database.tables, scope, [C, D], now=NOW)
    miss(database, A)

    assert forget(database, A)

    assert set(database.mapping()) == {str(B)}
    assert due(database, now=NOW + DAY) == []
    assert seen(database, "library/ubuntu", [C, D]) == seen(database, "team/other", [C, D]) == set()
    assert seen(database, "team/third", [C, D]) == {C, D}
    # As if it had never existed.
    assert database.enqueue(A, scope=None) == 1
    assert database.layer(A).scopes == ()


def test_a_layer_set_aside_may_be_forgotten(database: Database) -> None:
    database.enqueue(A)
    database.set_aside(database.claim_one())
    miss(database, A)
    assert forget(database, A)
    assert database.mapping() == {}


def test_only_a_suspect_missed_at_that_time_is_forgotten(database: Database) -> None:
    brewed(database, A, B)
    hint(database, A)
    miss(database, B, now=NOW)
    assert not forget(database, A, missed=NOW)
    assert not forget(database, B, missed=NOW - 1)
    assert not forget(database, C)
    assert set(database.mapping()) == {str(A), str(B)}


def test_waiting_or_locked_layers_are_not_forgotten(database: Database) -> None:
    database.enqueue(A, B)
    claim = database.claim_one()
    miss(database, A, B)
    assert not forget(database, A)
    assert not forget(database, B)
    assert set(database.mapping()) == {str(A), str(B)}
    assert database.complete(claim)


def test_a_layer_brewed_since_it_was_missed_is_not_forgotten(database: Database) -> None:
    brewed(database, A, now=NOW + 5)
    miss(database, A, now=NOW)
    assert not forget(database, A)
    assert database.layer(A).rbtorrent_id == rbtorrent_id_of(A)


def test_queueing_a_suspect_clears_it(database: Database) -> None:
    brewed(database, A)
    miss(database, A)
    assert database.enqueue(A, priority=Priority.PUSHED) == 0
    assert not forget(database, A)
    assert database.layer(A).state == "brewed"
    assert due(database, now=NOW + DAY) == []


@pytest.mark.parametrize("scope", ["library/ubuntu", "team/other"])
def test_a_push_waits_for_a_removal_in_progress_and_queues_the_layer_again(
    database: Database, scope: str
) -> None:
    brewed(database, A)
    miss(database, A)
    pushes: list[int] = []
    push = threading.Thread(target=lambda: pushes.append(database.enqueue(A, B, scope=scope, now=NOW + 9)))

    with transaction(database.engine) as connection:
        assert forget_layer(connection, database.tables, Suspect(A, NOW))
        push.start()
        push.join(0.3)
        assert push.is_alive()
    push.join()

    assert pushes == [2]
    layer = database.layer(A)
    assert (layer.state, layer.rbtorrent_id, layer.scopes, layer.added) == (
        "waiting",
        None,
        (scope,),
        NOW + 9,
    )
    assert {claim.digest for claim in database.claim(now=NOW + 10)} == {A, B}


def test_a_removal_waits_for_a_push_in_progress_and_keeps_the_layer(database: Database) -> None:
    brewed(database, A)
    miss(database, A)
    outcome: list[bool] = []
    forgetting = threading.Thread(target=lambda: outcome.append(forget(database, A)))

    with transaction(database.engine) as connection:
        new = [Layer(A, ("library/ubuntu",), 1)]
        enqueue_layers(connection, database.tables, new, priority=Priority.PUSHED, now=NOW)
        forgetting.start()
        forgetting.join(0.3)
        assert forgetting.is_alive()
    forgetting.join()

    assert outcome == [False]
    assert database.layer(A).state == "brewed"


def test_two_concurrent_removals_remove_it_once(database: Database) -> None:
    brewed(database, A)
    miss(database, A)
    outcomes: list[bool] = []
    both = [threading.Thread(target=lambda: outcomes.append(forget(database, A))) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert sorted(outcomes) == [False, True]


def test_a_cursor_is_saved_for_each_job(database: Database) -> None:
    with transaction(database.engine) as connection:
        assert find_cursor(connection, database.tables, "prune") == ""
        save_cursor(connection, database.tables, "prune", str(A))
        save_cursor(connection, database.tables, "other", str(B))
        save_cursor(connection, database.tables, "prune", str(C))
    with transaction(database.engine) as connection:
        assert find_cursor(connection, database.tables, "prune") == str(C)
        assert find_cursor(connection, database.tables, "other") == str(B)


@pytest.mark.parametrize("how", ["forgotten", "dropped"])
def test_a_layer_pushed_while_it_is_removed_is_queued(database: Database, how: str) -> None:
    digests = [digest_of(f"contended {number}") for number in range(40)]
    for digest in digests:
        database.enqueue(digest, now=NOW - DAY)
        database.set_aside(database.claim_one(now=NOW - DAY), reason=f"no blob {digest}")
    miss(database, *digests)
    start = threading.Barrier(2, timeout=60)

    def push(digest: Digest) -> object:
        try:
            return database.enqueue(digest, priority=Priority.PUSHED, scope="team/new")
        except LayersDropped:
            return database.enqueue(digest, priority=Priority.PUSHED, scope="team/new")

    def remove(digest: Digest) -> object:
        return forget(database, digest) if how == "forgotten" else database.drop(reason_like=str(digest))

    def each(act: Callable[[Digest], object]) -> None:
        for digest in digests:
            start.wait()
            act(digest)

    with ThreadPoolExecutor(2) as pool:
        runs = [
            pool.submit(each, remove),
            pool.submit(each, push),
        ]
    for run in runs:
        run.result()

    assert {database.layer(digest).state for digest in digests} == {"waiting"}
    assert {claim.digest for claim in database.claim(100)} == set(digests)
