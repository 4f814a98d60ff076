"""Refused notifications leave no trace, and secrets are not leaked."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import web.events
from tests.notifications import EXAMPLE, any_events, envelope, layer_event
from tests.web_events import SECRET, Receiving, receiving
from tests.wsgi import call


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Receiving]:
    with receiving(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    "secret",
    [None, "", "secretke", "secretkey ", "Secretkey", "Bearer secretkey", "secretkey\x00", "sécretkey"],
)
def test_a_sender_without_the_secret_is_refused_and_changes_nothing(
    app: Receiving, secret: str | None
) -> None:
    answer = app.post(EXAMPLE.read_bytes(), secret=secret)
    assert answer.status == 401
    assert json.loads(answer.body)["errors"][0]["code"] == "UNAUTHORIZED"
    assert app.queued() == []


def test_a_non_ascii_secret_is_compared_exactly(tmp_path: Path) -> None:
    with receiving(tmp_path, secret="Schlüssel") as app:
        on_the_wire = "Schlüssel".encode().decode("latin-1")
        assert app.post(envelope(), secret=on_the_wire).status == 200
        assert app.post(envelope(), secret="Schlussel").status == 401


@pytest.mark.parametrize("configured", [None, ""])
def test_without_a_configured_secret_every_event_is_refused(tmp_path: Path, configured: str | None) -> None:
    with receiving(tmp_path, secret=configured) as app:
        for secret in [None, "", "None", SECRET]:
            assert app.post(EXAMPLE.read_bytes(), secret=secret).status == 401


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH"])
def test_only_post_is_allowed(app: Receiving, method: str) -> None:
    answer = call(app.app, method, "/v0/event", headers={"Authorization": SECRET})
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"events": 7}', b"[" * 100_000, b"\xff\xfe", b"<html>"])
def test_a_malformed_body_is_400_and_changes_nothing(app: Receiving, body: bytes) -> None:
    answer = app.post(body)
    assert answer.status == 400
    assert "Traceback" not in answer.body.decode()
    assert app.queued() == []


def test_a_body_of_50_mb_is_413_and_is_not_read(app: Receiving) -> None:
    class Unread(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise AssertionError("the body was read")

    answer = app.post(b"", environ={"CONTENT_LENGTH": str(50_000_000), "wsgi.input": Unread()})
    assert answer.status == 413
    assert json.loads(answer.body)["errors"][0]["code"] == "SIZE_INVALID"


def test_an_endless_body_is_413(app: Receiving) -> None:
    class Endless(io.BytesIO):
        returned = 0

        def read(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert 0 < size <= 1_000_000
            self.returned += size
            assert self.returned < 2 * web.events.MAX_BODY
            return b" " * size

    answer = app.post(b"", environ={"wsgi.input_terminated": True, "wsgi.input": Endless()})
    assert answer.status == 413


def test_a_body_shorter_than_its_content_length_changes_nothing(app: Receiving) -> None:
    cut = io.BytesIO(envelope(layer_event()))
    answer = app.post(b"", environ={"CONTENT_LENGTH": "1000", "wsgi.input": cut})
    assert answer.status == 400
    assert app.queued() == []


BODIES = st.binary(max_size=100) | any_events.map(lambda events: envelope(*events))
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)


@given(body=BODIES, kind=TEXTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_body_is_ok_or_400(app: Receiving, body: bytes, kind: str) -> None:
    answer = app.post(body, kind=kind)
    assert answer.status in (200, 400)
    assert answer.body == b"OK" or json.loads(answer.body)["errors"]


@given(secret=TEXTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_other_secret_is_refused(app: Receiving, secret: str) -> None:
    assert app.post(envelope(), secret=secret).status == (200 if secret == SECRET else 401)


def test_the_log_has_no_secrets(app: Receiving, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    app.post(EXAMPLE.read_bytes())
    app.post(b"{")
    app.post(EXAMPLE.read_bytes(), secret="wrong-secret")
    assert SECRET not in caplog.text
    assert "wrong-secret" not in caplog.text


def test_refusals_are_logged_once_and_so_is_their_end(
    app: Receiving, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        app.post(envelope(), secret="the registry's old key")
    app.post(envelope())
    refused, ended = caplog.messages
    assert "differs from application.event_authorization" in refused
    assert ended.startswith("authorization of notifications works again")
