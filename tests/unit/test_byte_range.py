"""Range headers in all their forms (RFC 9110, section 14)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.http.byte_range import Span, applicable_range, etag_matches, requested_span

ETAG = '"sha256:' + "a" * 64 + '"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", Span(0, 1)),
        ("bytes=0-99", Span(0, 100)),
        ("bytes=10-19", Span(10, 10)),
        ("bytes=99-", Span(99, 1)),
        ("bytes=0-", Span(0, 100)),
        ("bytes=90-1000", Span(90, 10)),
        ("bytes=-1", Span(99, 1)),
        ("bytes=-100", Span(0, 100)),
        ("bytes=-1000", Span(0, 100)),
        ("BYTES=5-5", Span(5, 1)),
        ("bytes= 5-5 ", Span(5, 1)),
        ("bytes=,5-5, ,", Span(5, 1)),
        ("bytes=000000000000000000000000000005-6", Span(5, 2)),
        ("bytes=5-" + "9" * 5000, Span(5, 95)),
    ],
)
def test_a_single_range_is_parsed(header: str, expected: Span) -> None:
    assert requested_span(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=" + "9" * 5000 + "-"])
def test_a_range_beyond_the_end_is_unsatisfiable(header: str) -> None:
    assert requested_span(header, 100) == "unsatisfiable"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=a-b",
        "bytes=1-2-3",
        "bytes=--1",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=0x1-2",
        "bytes=٣-٤",
        "lines=0-1",
        "0-1",
        "bytes=0-1,5-6",
        "bytes=0-1,bytes=5-6",
        "bytes=0-1\n",
    ],
)
def test_malformed_or_several_ranges_select_everything(header: str | None) -> None:
    assert requested_span(header, 100) == "whole"


def test_an_empty_blob_has_no_ranges() -> None:
    assert requested_span("bytes=0-", 0) == "unsatisfiable"
    assert requested_span("bytes=-5", 0) == "whole"
    assert requested_span(None, 0) == "whole"


def test_content_range_ends_with_the_last_byte() -> None:
    assert Span(0, 1).content_range(100) == "bytes 0-0/100"
    assert Span(90, 10).content_range(100) == "bytes 90-99/100"


@given(
    st.text(max_size=60) | st.from_regex(r"bytes=[0-9]{0,4}-[0-9]{0,4}", fullmatch=True), st.integers(0, 9999)
)
def test_a_span_always_lies_within_the_blob(header: str, size: int) -> None:
    span = requested_span(header, size)
    if isinstance(span, Span):
        assert span.length > 0
        assert 0 <= span.start < span.start + span.length <= size


@given(st.integers(0, 200), st.integers(0, 200))
def test_positions_match_slicing(first: int, last: int) -> None:
    blob = bytes(range(100))
    span = requested_span(f"bytes={first}-{last}", len(blob))
    if isinstance(span, Span):
        assert blob[span.start : span.start + span.length] == blob[first : last + 1]
    else:
        assert (span == "whole") == (last < first)


def test_if_range_requires_the_exact_etag() -> None:
    assert applicable_range("bytes=0-1", None, ETAG) == "bytes=0-1"
    assert applicable_range("bytes=0-1", ETAG, ETAG) == "bytes=0-1"
    assert applicable_range(None, ETAG, ETAG) is None
    for if_range in ("W/" + ETAG, '"other"', "Wed, 21 Oct 2015 07:28:00 GMT"):
        assert applicable_range("bytes=0-1", if_range, ETAG) is None


@pytest.mark.parametrize("said", [ETAG, f"W/{ETAG}", ETAG.strip('"'), f'"x", {ETAG}', "*", f'{ETAG},"x"'])
def test_if_none_match_names_the_etag_alone_in_a_list_or_by_star(said: str) -> None:
    assert etag_matches(said, ETAG)


@pytest.mark.parametrize("said", [None, "", '"sha256:abcd"', '"x"', '"*", "x"', "sha256"])
def test_if_none_match_names_another(said: str | None) -> None:
    assert not etag_matches(said, ETAG)
