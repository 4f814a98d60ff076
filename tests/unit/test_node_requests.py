"""How the mirror parses paths below /v2/."""

from __future__ import annotations

import pytest

from core.digest import Digest
from core.errors import InvalidName
from node.requests import Resource, parse_any_digest, parse_path

DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("library/ubuntu/manifests/22.04", Resource("library/ubuntu", "manifests", "22.04")),
        (f"a/blobs/{DIGEST}", Resource("a", "blobs", DIGEST)),
        ("a/b/c/tags/list", Resource("a/b/c", "tags", "list")),
        (f"a/referrers/{DIGEST}", Resource("a", "referrers", DIGEST)),
        ("blobs/manifests/tags/manifests/latest", Resource("blobs/manifests/tags", "manifests", "latest")),
    ],
)
def test_the_last_keyword_of_the_path_counts(path: str, asked: Resource) -> None:
    assert parse_path(path) == asked


@pytest.mark.parametrize(
    "path", ["_catalog", "a/tags/other", "a/blobs/uploads/", "a/manifests/", "manifests/a"]
)
def test_anything_else_is_not_served(path: str) -> None:
    assert parse_path(path) is None


@pytest.mark.parametrize("path", ["../etc/manifests/latest", "A/manifests/latest", "a//b/manifests/latest"])
def test_an_invalid_scope_is_refused(path: str) -> None:
    with pytest.raises(InvalidName):
        parse_path(path)


def test_a_digest_of_another_algorithm_stays_text() -> None:
    assert parse_any_digest(DIGEST) == Digest.parse(DIGEST)
    for name in ("sha512:" + "a" * 128, "multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8"):
        assert parse_any_digest(name) == name


@pytest.mark.parametrize(
    "name", ["sha256:" + "g" * 64, "latest", "sha512:", "sha512:abc", "md5:../" + "a" * 32]
)
def test_an_invalid_digest_is_refused(name: str) -> None:
    with pytest.raises(InvalidName):
        parse_any_digest(name)
