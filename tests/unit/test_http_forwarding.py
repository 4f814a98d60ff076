"""Forwarded headers: those of the connection are dropped, the values are kept."""

from __future__ import annotations

from core.http.forwarding import end_to_end_headers
from core.http.headers import Headers


def test_headers_of_the_connection_and_those_it_names_are_dropped() -> None:
    headers = Headers(
        [
            ("Connection", "Keep-Alive, X-Hop"),
            ("connection", "x-other"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "close"),
            ("Transfer-Encoding", "chunked"),
            ("X-Hop", "1"),
            ("X-Other", "2"),
            ("Link", "a"),
            ("link", "b"),
        ]
    )
    assert end_to_end_headers(headers) == [("Link", "a"), ("link", "b")]


def test_further_names_can_be_left_out() -> None:
    headers = Headers([("ETag", '"a"'), ("Vary", "Accept")])
    assert end_to_end_headers(headers, without=frozenset({"etag"})) == [("Vary", "Accept")]


def test_values_are_decoded_as_utf_8_where_they_are_that() -> None:
    utf_8, latin_1 = "ü".encode().decode("latin-1"), "\xfc"
    assert end_to_end_headers(Headers([("A", utf_8), ("B", latin_1)])) == [("A", "ü"), ("B", "\xfc")]


def test_folded_lines_become_one() -> None:
    assert end_to_end_headers(Headers([("A", "one,\r\n\t two\0three")])) == [("A", "one, two three")]
