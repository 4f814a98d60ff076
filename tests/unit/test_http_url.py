"""Parsing URLs, and what may be shown of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadAnswer
from core.http.url import parse_url


def test_a_url_is_parsed() -> None:
    target = parse_url("https://registry.example.com:5000/v2/a/b?n=1&last=c")
    assert target.scheme == "https"
    assert target.host == "registry.example.com"
    assert target.port == 5000
    assert target.path == "/v2/a/b?n=1&last=c"
    assert target.url == "https://registry.example.com:5000/v2/a/b?n=1&last=c"


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://example.com", ("http", "example.com", 80)),
        ("https://EXAMPLE.com/", ("https", "example.com", 443)),
        ("https://example.com:443/", ("https", "example.com", 443)),
        ("http://127.0.0.1:5000", ("http", "127.0.0.1", 5000)),
        ("http://[::1]:5000/", ("http", "::1", 5000)),
    ],
)
def test_an_origin_has_the_default_port(url: str, origin: tuple[str, str, int]) -> None:
    assert parse_url(url).origin == origin
    assert parse_url(url).path == "/"


def test_neither_query_nor_user_is_shown() -> None:
    target = parse_url("https://user:secret@s3.example.com/bucket/key?X-Amz-Signature=secret#secret")
    assert str(target) == "https://s3.example.com/bucket/key"
    assert "secret" not in repr(target)
    assert str(parse_url("http://[::1]:5000/v2/")) == "http://[::1]:5000/v2/"


@pytest.mark.parametrize("call", ["layers", "swarm"])
def test_a_capability_in_the_path_is_not_shown(call: str) -> None:
    target = parse_url(f"https://registry.example.com/under/v0/{call}/Y2FwYWJpbGl0eQ/{'a' * 64}")
    assert str(target) == f"https://registry.example.com/under/v0/{call}/.../{'a' * 64}"
    assert "/Y2FwYWJpbGl0eQ/" in target.url


def test_a_long_url_is_shown_short() -> None:
    assert len(str(parse_url("http://example.com/" + "a" * 5000))) == 300


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/v2/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "https:///v2/",
        "http://exa mple.com/",
        "http://example.com/a b",
        "http://example.com/\r\nX: y",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:port/",
        "http://[::1/",
        "http://exämple.com/",
        "http://example.com/ä",
        "http://-secret@/",
    ],
)
def test_an_invalid_url_is_reported_without_showing_it(url: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is checked below
        parse_url(url)
    assert "secret" not in str(caught.value)


class TestALocation:
    def test_may_be_relative(self) -> None:
        here = parse_url("http://example.com:5000/v2/a/blobs/b?x=y")
        assert here.join("/other?q=1").url == "http://example.com:5000/other?q=1"
        assert here.join("c").url == "http://example.com:5000/v2/a/blobs/c"
        assert here.join("?last=z").url == "http://example.com:5000/v2/a/blobs/b?last=z"
        assert here.join("//other.example.com/").url == "http://other.example.com/"

    def test_keeps_its_signature_unchanged(self) -> None:
        signed = "https://s3.example.com/b/k%2Fx?X-Amz-Credential=a%2Fb&X-Amz-Signature=0123%3D~*'()!"
        assert parse_url("http://example.com/").join(signed).url == signed

    def test_has_what_no_url_may_have_escaped(self) -> None:
        here = parse_url("http://example.com/")
        assert here.join("/a b\u00c3\u00a4").url == "http://example.com/a%20b%C3%A4"

    @pytest.mark.parametrize(
        "location",
        ["file:///etc/passwd", "javascript:alert(1)", "http://:80/", "http://a:99999/", "http://[/"],
    )
    def test_must_lead_to_http(self, location: str) -> None:
        with pytest.raises(BadAnswer, match="redirects to an invalid URL"):
            parse_url("http://example.com/").join(location)

    @given(st.text(max_size=60))
    def test_has_a_target_or_is_a_bad_answer(self, location: str) -> None:
        try:
            onward = parse_url("http://example.com/v2/").join(location)
        except BadAnswer:
            return
        assert onward.scheme in ("http", "https")
        assert onward.path.startswith("/")
        assert all("!" <= sign <= "~" for sign in onward.url)


def test_a_url_with_a_query_which_may_hold_a_token_is_not_kept() -> None:
    plain, secret = "http://example.com/v2/", "http://example.com/blackbox?oauth_token=secret"
    assert parse_url(plain) is parse_url(plain)
    assert parse_url(secret) == parse_url(secret)
    assert parse_url(secret) is not parse_url(secret)
