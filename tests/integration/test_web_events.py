"""Accepted events and their effect on the queue, on both engines."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from core.manifests.media_types import OCI_INDEX
from sql.manifests import due_manifests
from sql.scopes import revoke_role
from sql.tables import Priority
from sql.transaction import database_time, reading, transaction
from tests.notifications import (
    DOCKER_CONFIG,
    EXAMPLE,
    EXAMPLE_LAYER,
    A,
    B,
    C,
    envelope,
    event,
    layer_event,
    reference,
)
from tests.web_events import Receiving, receiving
from tests.web_parts import NOON, rows


@pytest.fixture
def app(tmp_path: Path, database_url: str) -> Iterator[Receiving]:
    with receiving(tmp_path, database_url=database_url) as running:
        yield running


def table(app: Receiving, name: str, *columns: str) -> list[tuple[Any, ...]]:
    found: sa.Table = getattr(app.parts.tables, name)
    return rows(app.parts, found, *(columns or found.c.keys()))


def test_the_example_is_ok_and_queues_its_layer_as_pushed(app: Receiving) -> None:
    answer = app.post(EXAMPLE.read_bytes(), kind="application/x-www-form-urlencoded")
    assert (answer.status, answer.body) == (200, b"OK")
    assert table(app, "queue", "digest", "priority", "added") == [(EXAMPLE_LAYER, Priority.PUSHED, NOON)]
    assert table(app, "mapping", "digest", "added", "brewed") == [(EXAMPLE_LAYER, NOON, None)]
    assert table(app, "scope", "digest", "scope") == [(EXAMPLE_LAYER, "library/test")]


def test_a_scope_without_the_role_queues_nothing(app: Receiving) -> None:
    app.grant("librar", "lib*/x*", "other/?")
    answer = app.post(
        envelope(*(layer_event(repository=scope) for scope in ("library", "lib/a", "other/ab")))
    )
    assert (answer.status, answer.body) == (200, b"OK")
    assert table(app, "mapping") == []


def test_a_manifest_without_references_waits_to_be_resolved(app: Receiving) -> None:
    body = envelope(event(), event(mediaType=OCI_INDEX, digest=B))
    assert app.post(body, kind="application/vnd.docker.distribution.events.v2+json").body == b"OK"
    assert table(app, "manifest", "scope", "digest", "priority") == [
        ("library/test", A, Priority.PUSHED),
        ("library/test", B, Priority.PUSHED),
    ]
    assert app.queued() == []


def test_a_manifest_with_references_queues_its_layers_and_is_seen(app: Receiving) -> None:
    app.post(envelope(event(references=[reference(B, DOCKER_CONFIG), reference(C)])))
    assert table(app, "queue", "digest", "size") == [(C, 100)]
    assert table(app, "manifest") == []
    assert table(app, "seen", "scope", "digest") == [("library/test", A)]


def test_repeated_events_change_nothing(app: Receiving) -> None:
    known = event(digest=C, references=[reference(B, DOCKER_CONFIG), reference(C)])
    body = envelope(layer_event(), event(digest=B), known)
    names = ("mapping", "queue", "scope", "manifest", "seen")
    app.post(body)
    before = [table(app, name) for name in names]
    for again in [body, envelope(known, event(digest=B), event("pull"), layer_event()), body]:
        assert app.post(again).body == b"OK"
    assert [table(app, name) for name in names] == before


def test_a_layer_brewed_before_is_not_queued_by_a_new_push(app: Receiving) -> None:
    brewed = {"digest": A, "added": 1, "brewed": 2, "rbtorrent_id": "rbtorrent:" + "a" * 40}
    with transaction(app.parts.engine) as connection:
        connection.execute(sa.insert(app.parts.tables.mapping).values(brewed))
    app.post(envelope(layer_event()))
    assert table(app, "mapping", "digest", "brewed") == [(A, 2)]
    assert app.queued() == []


def test_an_invalid_event_does_not_affect_the_others(
    app: Receiving, caplog: pytest.LogCaptureFixture
) -> None:
    odd = [event("rename"), event(digest="../../etc"), event(repository="../x"), 7, {"action": "push"}] * 3
    assert app.post(envelope(*odd, layer_event(digest=B))).body == b"OK"
    assert app.queued() == [B]
    assert caplog.text.count("event ignored reason=") == 5
    assert "further events ignored number=10" in caplog.text


@pytest.mark.parametrize("body", [envelope(), envelope(event("pull")), envelope(event("delete"))])
def test_events_without_effect_are_ok(app: Receiving, body: bytes) -> None:
    assert app.post(body).body == b"OK"
    assert table(app, "mapping") == []
    assert table(app, "manifest") == []


def test_a_deleted_blob_is_checked_soon_but_not_forgotten_yet(app: Receiving) -> None:
    brewed = {"digest": A, "added": 1, "brewed": 2, "rbtorrent_id": "rbtorrent:" + "a" * 40}
    with transaction(app.parts.engine) as connection:
        connection.execute(sa.insert(app.parts.tables.mapping).values(brewed))
    body = envelope(*(event("delete", digest=digest, mediaType=..., size=...) for digest in (A, B, A)))
    for _ in range(2):
        assert app.post(body).body == b"OK"
    assert table(app, "missing", "digest", "missed", "due") == [(A, None, NOON)]
    assert table(app, "mapping", "digest", "brewed") == [(A, 2)]


def test_a_layer_pushed_after_its_deletion_is_not_a_suspect(app: Receiving) -> None:
    app.post(envelope(layer_event()))
    app.post(envelope(event("delete", digest=A, mediaType=..., size=...)))
    app.post(envelope(layer_event()))
    assert table(app, "missing") == []
    assert app.queued() == [A]


def test_a_chunked_body_is_read_to_its_end(app: Receiving) -> None:
    body = io.BytesIO(envelope(layer_event()))
    more = {"wsgi.input_terminated": True, "wsgi.input": body, "HTTP_TRANSFER_ENCODING": "chunked"}
    assert app.post(b"", environ=more).body == b"OK"
    assert app.queued() == [A]


def test_a_push_is_due_at_once_however_far_ahead_the_clock_of_this_host_is(tmp_path: Path) -> None:
    with receiving(tmp_path, clock=lambda: 4_000_000_000.0, database_clock=database_time) as app:
        app.post(envelope(event(mediaType=OCI_INDEX)))
        app.post(envelope(layer_event()))
        with reading(app.parts.engine) as connection:
            now = database_time(connection)
            assert due_manifests(connection, app.parts.tables, now=now, limit=1)
            assert connection.scalar(sa.select(app.parts.tables.queue.c.added)) <= now


def test_roles_are_granted_and_revoked_within_a_second(tmp_path: Path) -> None:
    now = [float(NOON)]
    with receiving(tmp_path, clock=lambda: now[0]) as app:
        app.post(envelope(layer_event(repository="other/test")))
        assert app.queued() == []
        app.grant("other/test")
        now[0] += 1
        app.post(envelope(layer_event(repository="other/test")))
        assert app.queued() == [A]
        with transaction(app.parts.engine) as connection:
            revoke_role(connection, app.parts.tables, "other/test")
        now[0] += 1
        app.post(envelope(layer_event(repository="other/test", digest=B)))
        assert app.queued() == [A]
