"""Scopes, tags, digests and patterns are validated."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.digest import Digest
from core.errors import InvalidName
from core.names import (
    matches,
    parse_digest_or_image,
    parse_image,
    parse_pattern,
    parse_reference,
    parse_scope,
    parse_tag,
)

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize("scope", ["ubuntu", "library/ubuntu", "a/b/c/d", "a.b_c__d-e---f/0", "a" * 255])
def test_valid_scopes_are_accepted(scope: str) -> None:
    assert parse_scope(scope) == scope


@pytest.mark.parametrize(
    "scope",
    ["", "/", "a/", "/a", "a//b", "..", "a/../b", "A", "a b", "a%2Fb", "a\x00", "a\n", "ä", "-a", "a-", "a..b",
     "a" * 256, "a" * 300, None, 3, b"a"],
)  # fmt: skip
def test_an_invalid_scope_is_refused(scope: object) -> None:
    with pytest.raises(InvalidName):
        parse_scope(scope)


@pytest.mark.parametrize("tag", ["latest", "v1.2-3_4", "_x", "A" * 128])
def test_valid_tags_are_accepted(tag: str) -> None:
    assert parse_tag(tag) == tag


@pytest.mark.parametrize("tag", ["", ".x", "-x", "a/b", "a:b", "A" * 129, "a\n", "ä", None])
def test_an_invalid_tag_is_refused(tag: object) -> None:
    with pytest.raises(InvalidName):
        parse_tag(tag)


def test_a_reference_is_a_digest_if_it_has_a_colon() -> None:
    assert parse_reference(f"sha256:{HEX}") == Digest(HEX)
    assert parse_reference("latest") == "latest"


@pytest.mark.parametrize(
    "digest",
    [f"sha256:{HEX[:-1]}", f"sha256:{HEX}0", f"sha256:{HEX.upper()}", f"sha512:{HEX}", HEX, "sha256:../../etc",
     f"sha256:{HEX}\n", "", None, 7],
)  # fmt: skip
def test_an_invalid_digest_is_refused(digest: object) -> None:
    with pytest.raises(InvalidName):
        Digest.parse(digest)
    assert Digest.parse_or_none(digest) is None


def test_globs_match_slashes() -> None:
    assert matches("library/test/deep", parse_pattern("library/*"))
    assert not matches("libraries", parse_pattern("library/*"))
    assert matches("anything/at/all", parse_pattern("*"))


@pytest.mark.parametrize("pattern", ["", "a b*", "A*", "*" * 256, "a/../b", "*\n"])
def test_an_invalid_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(InvalidName):
        parse_pattern(pattern)


@pytest.mark.parametrize("parse", [parse_image, parse_digest_or_image])
def test_an_image_is_named_by_tag_or_digest(parse: Callable[[str], object]) -> None:
    assert parse("library/ubuntu:22.04") == ("library/ubuntu", "22.04")
    assert parse(f"library/ubuntu@sha256:{HEX}") == ("library/ubuntu", Digest(HEX))
    for text, why in [
        ("library/ubuntu", "expected "),
        ("localhost:5000/ubuntu:22.04", "without registry or tag"),
        ("library/ubuntu:", "is not a tag"),
        ("library/ubuntu@22.04", "is not a digest"),
    ]:
        with pytest.raises(InvalidName, match=why):
            parse(text)


def test_a_digest_names_a_layer() -> None:
    assert parse_digest_or_image(f"sha256:{HEX}") == Digest(HEX)
    with pytest.raises(InvalidName, match="is not a digest"):
        parse_digest_or_image("sha256:abc")


@pytest.mark.parametrize(
    "parse",
    [
        parse_scope,
        parse_tag,
        parse_reference,
        parse_pattern,
        parse_image,
        parse_digest_or_image,
        Digest.parse,
    ],
)
@given(text=st.text())
def test_any_text_is_parsed_or_raises_invalid_name(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except InvalidName as error:
        assert len(str(error)) < 300


def test_the_message_has_the_article_of_the_name() -> None:
    with pytest.raises(InvalidName, match="'x' is not an image: "):
        raise InvalidName("image", "x", "expected scope:tag")
