"""Malformed notifications are refused as a whole, or their invalid events are skipped."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import EventsMalformed
from core.event_plan import plan
from core.events import MAX_REPORTED, parse_events
from tests.notifications import A, B, any_events


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        b"{",
        b"OK",
        b"[]",
        b"null",
        b"7",
        b'"events"',
        b"{}",
        b'{"events": null}',
        b'{"events": {}}',
        b'{"events": "push"}',
        b'{"events": [NaN]}',
        b'{"events": [Infinity]}',
        b'{"events": [' + b"9" * 5000 + b"]}",
        b'{"events": ["\xff"]}',
        '{"events": []}'.encode("utf-16"),
        b'\xef\xbb\xbf{"events": []}',
        b'{"events": []} {}',
        b'{"events": [],}',
        b'{"events": [{},]}',
        b'{"events": [{} {}]}',
        b'{"events": [], "events": []}',
        b'{1: 2, "events": []}',
        b'{"events" []}',
        b'{"events": [',
        b"<html>",
        b"\x00" * 100,
        b"[" * 100_000,
        b'{"events":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a":' * 100_000,
    ],
    ids=lambda malformed: repr(malformed[:20]),
)
def test_a_body_that_is_not_an_envelope_is_refused(malformed: bytes) -> None:
    with pytest.raises(EventsMalformed) as caught:
        parse_events(malformed)
    assert len(str(caught.value)) < 200


def test_memory_does_not_grow_with_the_number_of_events() -> None:
    events = 300_000
    body = b'{"events": [' + b"{}," * (events - 1) + b'{}], "more": {"a": [1]}}'
    tracemalloc.start()
    try:
        notification = parse_events(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(notification.skipped) + notification.more_skipped == events
    assert peak < 4 * len(body)


@pytest.mark.parametrize("action", ["push", "nonsense"])
def test_only_the_first_invalid_events_are_described(action: str) -> None:
    notification = parse_events(json.dumps({"events": [{"action": action}] * 20}).encode())
    assert (len(notification.skipped), notification.more_skipped) == (MAX_REPORTED, 20 - MAX_REPORTED)


def test_an_envelope_without_events_is_accepted() -> None:
    assert parse_events(b'{"events": []}').events == ()


@given(st.binary(max_size=200))
def test_any_bytes_give_events_or_are_refused(data: bytes) -> None:
    with suppress(EventsMalformed):
        parse_events(data)


@given(any_events)
def test_any_events_queue_only_true_digests_of_scopes_with_the_role(events: list[Any]) -> None:
    text = json.dumps({"events": events}).encode()
    try:
        notification = parse_events(text)
    except EventsMalformed:
        assert b"NaN" in text or b"Infinity" in text
        return
    wanted = plan(notification, lambda scope: scope == "library/test")
    for layer in wanted.layers:
        assert layer.digest in (A, B)
        assert layer.scope == "library/test"
        assert layer.size is None or 0 < layer.size < 2**63
    assert {scope for scope, _ in (*wanted.manifests, *wanted.known)} <= {"library/test"}
    assert not set(wanted.manifests) & set(wanted.known)
    assert len(set(wanted.layers)) == len({layer.digest for layer in wanted.layers})
