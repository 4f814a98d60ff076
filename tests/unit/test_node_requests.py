"""How the mirror parses paths below /v2/."""

from __future__ import annotations

import pytest

from core.errors import InvalidName
from node.requests import Resource, parse_path

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
