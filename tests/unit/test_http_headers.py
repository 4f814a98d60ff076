"""Headers of an answer."""

from __future__ import annotations

import pytest

from core.http.headers import Headers

HEADERS = Headers(
    [("Content-Type", "text/plain"), ("WWW-Authenticate", "Basic"), ("www-authenticate", 'Bearer realm="a"')]
)


def test_are_found_whatever_their_case() -> None:
    assert HEADERS.get("content-type") == "text/plain"
    assert HEADERS.get("CONTENT-TYPE") == "text/plain"
    assert HEADERS.get("Content-Length") is None


def test_keep_every_line_of_one_name() -> None:
    assert HEADERS.all("WWW-Authenticate") == ["Basic", 'Bearer realm="a"']
    assert HEADERS.get("WWW-Authenticate") == 'Basic, Bearer realm="a"'
    assert HEADERS.all("Link") == []


def test_come_in_order_with_their_names_as_sent() -> None:
    assert [name for name, _ in HEADERS] == ["Content-Type", "WWW-Authenticate", "www-authenticate"]


def test_do_not_show_their_values() -> None:
    secret = Headers([("Location", "https://s3.example.com/?X-Amz-Signature=secret")])
    assert repr(secret) == "Headers(Location)"


@pytest.mark.parametrize(
    ("value", "number"),
    [
        ("0", 0),
        ("42", 42),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, None),
        ("-1", None),
        ("+1", None),
        ("1_000", None),
        ("1.0", None),
        ("", None),
        (" ", None),
        ("٣", None),
        ("²", None),
        ("5, 5", None),
    ],
)
def test_a_number_is_plain_digits(value: str, number: int | None) -> None:
    assert Headers([("Content-Length", value)]).number("Content-Length") == number
    assert Headers([]).number("Content-Length") is None


def test_a_repeated_number_is_invalid() -> None:
    assert Headers([("Content-Length", "5"), ("Content-Length", "6")]).number("Content-Length") is None
