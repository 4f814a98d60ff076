"""Unresolved and resolved manifests, and the roles."""

from __future__ import annotations

import pytest

from sql.manifests import (
    DueManifest,
    due_manifests,
    enqueue_manifests,
    fail_manifest,
    finish_manifest,
    forget_seen,
    mark_new_seen,
    mark_seen,
    seen_manifests,
)
from sql.requeue import drop_manifests, retry_failed_manifests
from sql.scopes import Role, grant_role, list_roles, revoke_role
from sql.tables import Priority
from sql.transaction import transaction
from tests.integration.sql.database import NOW, Database, digest_of

A, B, C = (digest_of(name) for name in "abc")


def _enqueue(
    database: Database,
    *manifests: tuple[str, str],
    priority: Priority = Priority.PUSHED,
    now: int = NOW,
) -> int:
    with transaction(database.engine) as connection:
        return enqueue_manifests(connection, database.tables, manifests, priority=priority, now=now)


def _due(database: Database, *, now: int = NOW, limit: int = 10) -> list[DueManifest]:
    with transaction(database.engine) as connection:
        return due_manifests(connection, database.tables, now=now, limit=limit)


def _counts(database: Database) -> tuple[int, int]:
    """Return how many manifests wait, and how many are set aside."""
    manifests = database.status().manifests
    return manifests.waiting, manifests.set_aside_count


def test_manifests_are_ordered_by_priority_and_age(database: Database) -> None:
    assert _enqueue(database, ("team/a", A), priority=Priority.SCANNED, now=NOW - 9) == 1
    assert _enqueue(database, ("team/a", B), ("team/b", B), ("team/a", B), now=NOW - 5) == 2
    assert _enqueue(database, ("team/a", C), now=NOW - 7) == 1
    due = _due(database)
    assert due[0] == DueManifest("team/a", C, Priority.PUSHED, NOW - 7, 0)
    assert {(one.scope, one.digest) for one in due[1:3]} == {("team/a", B), ("team/b", B)}
    assert due[3].digest == A
    assert len(_due(database, limit=2)) == 2
    assert _enqueue(database) == 0


def test_recording_a_manifest_again_may_only_make_it_more_urgent(database: Database) -> None:
    _enqueue(database, ("a", A), priority=Priority.SCANNED)
    assert _enqueue(database, ("a", A), priority=Priority.PUSHED) == 0
    assert _enqueue(database, ("a", A), priority=Priority.BACKFILLED) == 0
    assert [one.priority for one in _due(database)] == [Priority.PUSHED]


def test_a_failed_manifest_is_due_after_its_delay(database: Database) -> None:
    _enqueue(database, ("a", A))
    with transaction(database.engine) as connection:
        assert fail_manifest(connection, database.tables, "a", A, reason="slow", next_try=NOW + 30)
        assert not fail_manifest(connection, database.tables, "a", B, reason="slow", next_try=NOW)
    assert _due(database, now=NOW + 29) == []
    assert _due(database, now=NOW + 30) == [DueManifest("a", A, Priority.PUSHED, NOW, 1)]


def test_a_failed_manifest_is_due_at_once_when_it_is_pushed_again(database: Database) -> None:
    _enqueue(database, ("a", A))
    with transaction(database.engine) as connection:
        assert fail_manifest(connection, database.tables, "a", A, reason="slow", next_try=NOW + 30)
    assert _enqueue(database, ("a", A), now=NOW + 5) == 0
    assert _due(database, now=NOW + 5) == [DueManifest("a", A, Priority.PUSHED, NOW, 1)]
    assert _enqueue(database, ("a", A), now=NOW + 7) == 0
    assert _due(database, now=NOW + 5) == [DueManifest("a", A, Priority.PUSHED, NOW, 1)]


def test_a_finished_manifest_leaves_the_table(database: Database) -> None:
    _enqueue(database, ("a", A), ("b", A))
    with transaction(database.engine) as connection:
        assert finish_manifest(connection, database.tables, "a", A)
        assert not finish_manifest(connection, database.tables, "a", A)
    assert [one.scope for one in _due(database)] == ["b"]


def test_a_manifest_set_aside_is_retried_when_pushed_again(database: Database) -> None:
    _enqueue(database, ("a", A), ("a", B))
    with transaction(database.engine) as connection:
        assert fail_manifest(connection, database.tables, "a", A, reason="not there", next_try=None)
        assert fail_manifest(connection, database.tables, "a", B, reason="not there", next_try=None)
    assert _due(database, now=NOW + 10**6) == []
    assert _counts(database) == (0, 2)
    later = NOW + 1000
    assert _enqueue(database, ("a", A), priority=Priority.BACKFILLED, now=later) == 1
    # It waits since this push.
    assert _due(database, now=later) == [DueManifest("a", A, Priority.PUSHED, later, 0)]
    with transaction(database.engine) as connection:
        assert retry_failed_manifests(connection, database.tables, now=NOW) == 1
    assert _counts(database) == (2, 0)


@pytest.fixture
def three_set_aside(database: Database) -> Database:
    """A of two repositories, and B, were set aside for different reasons; C waits."""
    _enqueue(database, ("a", A), ("b", A), ("a", B), ("a", C))
    with transaction(database.engine) as connection:
        for scope, digest, reason in (
            ("a", A, "no such"),
            ("b", A, "no such"),
            ("a", B, "Not a manifest: 5%"),
        ):
            assert fail_manifest(connection, database.tables, scope, digest, reason=reason, next_try=None)
    return database


CHOICES = pytest.mark.parametrize(
    ("chosen", "those"),
    [
        ({}, [("a", A), ("b", A), ("a", B)]),
        ({"reason_like": "NO SUCH"}, [("a", A), ("b", A)]),
        ({"reason_like": "5%"}, [("a", B)]),
        ({"reason_like": "_"}, []),
        ({"digest": A}, [("a", A), ("b", A)]),
        ({"digest": A, "reason_like": "not"}, []),
    ],
)


@CHOICES
def test_manifests_set_aside_are_retried_by_reason_or_digest(
    three_set_aside: Database, chosen: dict[str, str], those: list[tuple[str, str]]
) -> None:
    tables = three_set_aside.tables
    with transaction(three_set_aside.engine) as connection:
        assert retry_failed_manifests(connection, tables, **chosen, now=NOW + 5) == len(those)
        assert retry_failed_manifests(connection, tables, **chosen, now=NOW + 5) == 0
    assert {(one.scope, one.digest) for one in _due(three_set_aside, now=NOW + 5)} == {*those, ("a", C)}
    assert {one.attempts for one in _due(three_set_aside, now=NOW + 5)} == {0}


@CHOICES
def test_manifests_set_aside_are_dropped_by_reason_or_digest(
    three_set_aside: Database, chosen: dict[str, str], those: list[tuple[str, str]]
) -> None:
    with transaction(three_set_aside.engine) as connection:
        assert drop_manifests(connection, three_set_aside.tables, **chosen) == len(those)
    assert _counts(three_set_aside) == (1, 3 - len(those))
    assert _enqueue(three_set_aside, *those) == len(those)


def test_a_waiting_manifest_is_dropped_by_its_digest_only(three_set_aside: Database) -> None:
    with transaction(three_set_aside.engine) as connection:
        assert drop_manifests(connection, three_set_aside.tables) == 3
        assert drop_manifests(connection, three_set_aside.tables, digest=C) == 1
    assert _counts(three_set_aside) == (0, 0)


def test_resolved_manifests_are_remembered_by_scope(database: Database) -> None:
    with transaction(database.engine) as connection:
        mark_seen(connection, database.tables, "a", [A, B, A], now=NOW)
        mark_seen(connection, database.tables, "a", [], now=NOW)
        mark_seen(connection, database.tables, "a", [B], now=NOW + 5)
        assert seen_manifests(connection, database.tables, "a", [A, B, C]) == {A, B}
        assert seen_manifests(connection, database.tables, "b", [A, B, C]) == set()
        assert forget_seen(connection, database.tables, older_than=NOW + 1, limit=10) == 1
        assert seen_manifests(connection, database.tables, "a", [A, B, C]) == {B}


def test_manifests_of_many_scopes_are_remembered_once(database: Database) -> None:
    with transaction(database.engine) as connection:
        mark_new_seen(connection, database.tables, [("a", A), ("b", B), ("a", A)], now=NOW)
        mark_new_seen(connection, database.tables, [("b", B), ("b", C)], now=NOW + 5)
        assert seen_manifests(connection, database.tables, "a", [A, B, C]) == {A}
        assert seen_manifests(connection, database.tables, "b", [A, B, C]) == {B, C}
        assert forget_seen(connection, database.tables, older_than=NOW + 1, limit=10) == 2
        assert seen_manifests(connection, database.tables, "b", [A, B, C]) == {C}


def test_old_manifests_are_deleted_in_batches_the_oldest_first(database: Database) -> None:
    with transaction(database.engine) as connection:
        for number, digest in enumerate((A, B, C)):
            mark_seen(connection, database.tables, "a", [digest], now=NOW + number)
            mark_seen(connection, database.tables, "b", [digest], now=NOW + 10)
        assert forget_seen(connection, database.tables, older_than=NOW + 3, limit=2) == 2
        assert seen_manifests(connection, database.tables, "a", [A, B, C]) == {C}
        assert forget_seen(connection, database.tables, older_than=NOW + 3, limit=2) == 1
        assert forget_seen(connection, database.tables, older_than=NOW + 3, limit=2) == 0
        assert seen_manifests(connection, database.tables, "b", [A, B, C]) == {A, B, C}


def test_roles_are_granted_revoked_and_listed(database: Database) -> None:
    with transaction(database.engine) as connection:
        assert grant_role(connection, database.tables, "team/*", now=NOW)
        assert grant_role(connection, database.tables, "library/ubuntu", now=NOW + 1)
        assert not grant_role(connection, database.tables, "team/*", now=NOW + 2)
        assert list_roles(connection, database.tables) == [
            Role("library/ubuntu", NOW + 1),
            Role("team/*", NOW),
        ]
        assert revoke_role(connection, database.tables, "team/*")
        assert not revoke_role(connection, database.tables, "team/*")
        assert [role.pattern for role in list_roles(connection, database.tables)] == ["library/ubuntu"]
