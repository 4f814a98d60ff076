"""Errors for the refusals and failures of a registry."""

from __future__ import annotations

import json

import pytest

from core.errors import (
    BadAnswer,
    NotFound,
    Refused,
    TooManyRequests,
    Unavailable,
)
from core.http.headers import Headers
from core.registry.answers import from_status

WHERE = "https://registry.example.com/v2/a/manifests/b"
NOTHING = Headers()


def error_body(code: str, message: str) -> bytes:
    return json.dumps(
        {"errors": [{"code": code, "message": message, "detail": {"token": "secret"}}]}
    ).encode()


@pytest.mark.parametrize("status", [400, 401, 403, 405, 410, 416, 501])
def test_refusals_keep_their_status(status: int) -> None:
    error = from_status(status, NOTHING, b"", WHERE, "a:b")
    assert isinstance(error, Refused)
    assert error.status == status
    assert WHERE in str(error)


def test_each_refusal_has_its_own_message() -> None:
    said = {str(from_status(status, NOTHING, b"", WHERE, "a:b")) for status in (400, 401, 403, 405, 501)}
    assert len(said) == 5


def test_missing_things_are_named() -> None:
    error = from_status(404, NOTHING, error_body("MANIFEST_UNKNOWN", "manifest unknown"), WHERE, "a:b")
    assert isinstance(error, NotFound)
    assert str(error) == "a:b: not found"


def test_a_web_page_is_not_a_registrys_404() -> None:
    page = Headers([("Content-Type", "Text/HTML; charset=utf-8")])
    error = from_status(404, page, b"<html>", WHERE, "a:b")
    assert isinstance(error, BadAnswer)
    assert not error.permanent


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 507, 599])
def test_temporary_failures_are_retried(status: int) -> None:
    error = from_status(status, NOTHING, b"", WHERE, "a:b")
    assert isinstance(error, Unavailable)
    assert not error.permanent
    assert str(status) in str(error)


@pytest.mark.parametrize("status", [201, 204, 206, 302, 304, 700, 999])
def test_unexpected_statuses_are_bad_answers(status: int) -> None:
    assert isinstance(from_status(status, NOTHING, b"", WHERE, "a:b"), BadAnswer)


def test_the_registrys_message_is_passed_on_without_the_detail() -> None:
    error = from_status(403, NOTHING, error_body("DENIED", "not\nfor you"), WHERE, "a:b")
    assert str(error).endswith("access denied: DENIED: not?for you")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"5",
        b"null",
        b'{"errors":[]}',
        b'{"errors":{}}',
        b'{"errors":[5]}',
        b'{"errors":[{}]}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_unusable_messages_are_skipped(body: bytes) -> None:
    assert str(from_status(403, NOTHING, body, WHERE, "a:b")).endswith("(403): access denied")


def test_long_messages_are_truncated() -> None:
    assert len(str(from_status(500, NOTHING, error_body("UNKNOWN", "x" * 9000), WHERE, "a:b"))) < 400


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "9" * 15}, 86_400),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        (
            {
                "Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT",
                "Date": "Fri, 31 Dec 1999 23:58:59 GMT",
            },
            60,
        ),
        ({"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}, 0),
        ({"Retry-After": "Fri, 99 Dec 1999 23:59:59 GMT"}, None),
    ],
)
def test_retry_after_is_parsed(headers: dict[str, str], seconds: float | None) -> None:
    error = from_status(429, Headers(list(headers.items())), b"", WHERE, "a:b")
    assert isinstance(error, TooManyRequests)
    assert error.retry_after == seconds
