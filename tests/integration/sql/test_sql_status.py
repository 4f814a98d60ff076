"""The status of the queue and of single layers."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from core.layer import Layer
from jobs.queue_commands import status_lines
from jobs.show import layer_lines
from sql.layers import find_layer, find_layers, known_layers, list_scopes
from sql.legacy_ids import LegacyId, adopt_legacy_ids
from sql.manifests import enqueue_manifests, fail_manifest
from sql.queue_counts import count_waiting
from sql.scopes import MAX_SCOPES
from sql.tables import Priority
from sql.transaction import reading, transaction
from tests.integration.sql.database import NOW, Database, digest_of, rbtorrent_id_of

A, B, C, D, E, F = (digest_of(name) for name in "abcdef")


def test_an_empty_queue_is_reported_as_empty(database: Database) -> None:
    status = database.status()
    assert status.waiting == dict.fromkeys(Priority, 0)
    assert (status.waiting_count, status.delayed, status.oldest_waiting) == (0, 0, None)
    assert (status.locked, status.locked_count, status.set_aside) == ((), 0, {})
    assert (status.manifests.waiting, status.manifests.set_aside) == (0, {})
    assert (status.brewed_last_hour, status.per_second, status.empty_in) == (0, 0, None)


def test_waiting_layers_are_counted_by_priority_without_locked_ones(database: Database) -> None:
    database.enqueue(A, priority=Priority.ASKED, now=NOW - 70)
    database.enqueue(B, priority=Priority.PUSHED, now=NOW - 60)
    database.enqueue(C, priority=Priority.PUSHED, now=NOW - 50)
    database.enqueue(D, E, priority=Priority.BACKFILLED, now=NOW - 40)
    database.claim_one()
    database.retry(database.claim_one(), next_try=NOW + 10)
    status = database.status()
    assert status.waiting == {
        Priority.ASKED: 0,
        Priority.PUSHED: 2,
        Priority.SCANNED: 0,
        Priority.BACKFILLED: 2,
    }
    assert (status.waiting_count, status.delayed, status.oldest_waiting) == (4, 1, NOW - 60)
    assert database.status(now=NOW + 10).delayed == 0
    with reading(database.engine) as connection:
        assert count_waiting(connection, database.tables) == 4


def test_locked_layers_are_listed_with_their_brewer(database: Database) -> None:
    database.enqueue(A)
    database.enqueue(B)
    old = database.claim_one(now=NOW, brewer="one:1")
    new = database.claim_one(now=NOW + 5, brewer="two:2")
    database.renew([old], now=NOW + 100)
    database.execute(f"INSERT INTO rbtorrent_mapping (digest, added, brew_lock) VALUES ('{C}', 1, {NOW + 7})")
    status = database.status()
    assert status.locked_count == 3
    assert [(one.digest, one.since, one.renewed, one.brewer) for one in status.locked] == [
        (str(old.digest), NOW, NOW + 100, "one:1"),
        (str(new.digest), NOW + 5, NOW + 5, "two:2"),
        (str(C), NOW + 7, NOW + 7, None),
    ]


def test_similar_failures_are_one_line(database: Database) -> None:
    database.enqueue(A, B, C)
    for claim, reason in zip(
        database.claim(3),
        [f"the layer has 5 bytes, not 6, of {A}", f"the layer has 17 bytes, not 8, of {B}", "no blob"],
        strict=True,
    ):
        database.set_aside(claim, reason=reason)
    status = database.status()
    assert status.set_aside == {"the layer has … bytes, not …, of sha256:…": 2, "no blob": 1}
    assert status.set_aside_count == 3


def test_layers_set_aside_are_listed_with_their_repositories(database: Database) -> None:
    database.enqueue(A, size=7, scope="team/b")
    database.enqueue(A, scope="team/a")
    database.set_aside(database.claim_one(), reason=f"no blob {A} at registry:5000")
    [layer] = database.status().set_aside_layers
    assert (layer.digest, layer.size, layer.scopes) == (str(A), 7, ("team/a", "team/b"))
    assert layer.reason == f"no blob {A} at registry:5000"
    assert layer.kind == "no blob sha256:… at registry:5000"
    lines = list(status_lines(database.status(), now=NOW))
    place = lines.index("          1 no blob sha256:… at registry:5000")
    assert lines[place + 1] == f"            {A}             7  team/a team/b"


def test_some_of_many_layers_with_one_reason_are_shown(database: Database) -> None:
    database.enqueue(A, B, C, D, E)
    for claim in database.claim(5):
        database.set_aside(claim, reason="down")
    lines = list(status_lines(database.status(), now=NOW))
    place = lines.index("          5 down")
    assert lines[place + 4] == "            ... and 2 more (--json lists them)"
    assert lines[-1] == "waiting 0, locked 0, set aside 5"


def test_a_reason_is_shown_with_its_host_port_and_status_and_found_by_them(database: Database) -> None:
    database.enqueue(A)
    database.set_aside(database.claim_one(), reason="http://127.0.0.1:5000 refuses: it answers 403")
    [shown] = database.status().set_aside
    assert database.retry_failed_layers(reason_like=shown) == 1


def test_delayed_layers_have_their_reason_and_times(database: Database) -> None:
    database.enqueue(A, B, C, D)
    for number, claim in enumerate(database.claim(3)):
        reason = "down" if number == 2 else f"cut at byte {number}"
        database.retry(claim, reason=reason, next_try=NOW + 10 * (number + 1))
    status = database.status()
    assert {
        kind: (of.layers, of.first_try, of.last_try) for kind, of in status.delayed_by_reason.items()
    } == {
        "cut at byte …": (2, NOW + 10, NOW + 20),
        "down": (1, NOW + 30, NOW + 30),
    }
    assert [layer.next_try for layer in status.delayed_layers] == [NOW + 10, NOW + 20, NOW + 30]
    assert database.status(now=NOW + 30).delayed_by_reason == {}
    lines = list(status_lines(status, now=NOW))
    assert "          2 retried in 10 s to 20 s: cut at byte …" in lines
    assert "          1 retried in 30 s: down" in lines


def test_the_rarest_of_very_many_reasons_are_one_entry(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sql.status._MAX_REASONS", 2)
    database.enqueue(A, B, C, D, E)
    for claim, reason in zip(database.claim(5), ["one", "two", "two", "three", "two"], strict=True):
        database.set_aside(claim, reason=reason)
    status = database.status()
    assert list(status.set_aside.items()) == [("two", 3), ("one", 1), ("other reasons", 1)]
    assert status.set_aside_count == 5


def test_manifests_set_aside_are_counted_by_reason(database: Database) -> None:
    with transaction(database.engine) as connection:
        tables = database.tables
        manifests = [("team/a", digest) for digest in (A, B, C, D)]
        enqueue_manifests(connection, tables, manifests, priority=Priority.PUSHED, now=NOW)
        for digest, reason in ((A, f"registry has no {A}"), (B, f"registry has no {B}"), (C, "not JSON")):
            fail_manifest(connection, tables, "team/a", digest, reason=reason, next_try=None)
    manifests_told = database.status().manifests
    assert manifests_told.waiting == 1
    assert list(manifests_told.set_aside.items()) == [("registry has no sha256:…", 2), ("not JSON", 1)]
    assert manifests_told.set_aside_count == 3
    assert database.status().set_aside == {}


def test_the_rate_of_the_last_hour_predicts_when_the_queue_is_empty(database: Database) -> None:
    database.enqueue(A, B, C, D, E, F)
    first, second, third = database.claim(3)
    database.complete(first, now=NOW - 3600)
    database.complete(second, now=NOW - 3599)
    database.complete(third, now=NOW)
    status = database.status()
    assert status.brewed_last_hour == 2
    assert status.per_second == 2 / 3600
    assert status.empty_in == 3 * 1800
    assert "brewed     2 in the last hour" in status_lines(status, now=NOW)
    database.retry(database.claim_one(), next_try=NOW + 60)
    assert database.status().empty_in == 2 * 1800


def test_adopted_ids_do_not_count_as_brewed(database: Database) -> None:
    with transaction(database.engine) as connection:
        adopt_legacy_ids(connection, database.tables, [LegacyId(A, rbtorrent_id_of(A))], now=NOW)
    assert database.layer(A).state == "brewed"
    assert database.status().brewed_last_hour == 0


def test_a_layers_record_is_complete(database: Database) -> None:
    database.enqueue(A, size=5, scope="team/a", priority=Priority.ASKED, now=NOW)
    database.retry(database.claim_one(now=NOW + 1, brewer="one:1"), reason="slow", next_try=NOW + 9)
    assert database.layer(A, now=NOW + 8).state == "delayed"
    assert database.layer(A, now=NOW + 9).state == "waiting"
    claim = database.claim_one(now=NOW + 10, brewer="two:2")
    layer = database.layer(A)
    assert (layer.state, layer.brewer, layer.locked, layer.claimed) == (
        "being brewed",
        "two:2",
        NOW + 10,
        NOW + 10,
    )
    database.complete(claim, size=5, now=NOW + 20)
    layer = database.layer(A)
    assert (layer.state, layer.rbtorrent_id, layer.brewed) == ("brewed", rbtorrent_id_of(A), NOW + 20)
    assert (layer.size, layer.scopes, layer.added) == (5, ("team/a",), NOW)
    assert (layer.reason, layer.next_try, layer.attempts) == (None, None, 1)


def test_records_of_known_layers_are_found_together(database: Database) -> None:
    database.enqueue(A, B)
    database.execute(f"INSERT INTO rbtorrent_mapping (digest, added) VALUES ('{C}', 1)")
    with reading(database.engine) as connection:
        found = find_layers(connection, database.tables, [A, B, C, D], now=NOW)
        assert {digest: layer.state for digest, layer in found.items()} == dict.fromkeys((A, B, C), "waiting")
        assert find_layer(connection, database.tables, D, now=NOW) is None
        assert known_layers(connection, database.tables, [A, C, D]) == {A, C}


def test_a_record_names_the_first_repositories_of_a_layer_that_has_many(database: Database) -> None:
    names = [f"team/{number:04}" for number in range(MAX_SCOPES + 1)]
    database.enqueue_all([Layer(A, tuple(names), None), Layer(B, tuple(names[:MAX_SCOPES]), None)])
    assert (database.layer(A).scopes, database.layer(A).more_scopes) == (tuple(names[:MAX_SCOPES]), True)
    assert (database.layer(B).scopes, database.layer(B).more_scopes) == (tuple(names[:MAX_SCOPES]), False)
    [scopes] = [line for line in layer_lines(asdict(database.layer(A))) if line.startswith("scopes")]
    assert scopes.endswith("team/0099 and more")
    for claim in database.claim():
        database.set_aside(claim)
    assert [len(layer.scopes) for layer in database.status().set_aside_layers] == [MAX_SCOPES, MAX_SCOPES]


def test_scopes_are_listed_once_each(database: Database) -> None:
    with reading(database.engine) as connection:
        assert list_scopes(connection, database.tables) == []
    database.enqueue_all(
        [
            Layer(digest, (scope,), None)
            for digest in (A, B, C)
            for scope in ("team/b", "a", "team/a-1", "team/a")
        ]
    )
    with reading(database.engine) as connection:
        assert list_scopes(connection, database.tables) == ["a", "team/a", "team/a-1", "team/b"]
