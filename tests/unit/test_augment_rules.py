"""How a manifest request is read: its path, whether it wants ids, and its conditions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.digest import Digest
from core.errors import InvalidName
from core.manifests.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from core.manifests.platform import Platform
from core.names import parse_reference, parse_scope
from web.augment_rules import parse_path, requested_platform, wants_ids

DIGEST = Digest("a" * 64)


@pytest.mark.parametrize(
    ("rest", "named"),
    [
        ("ubuntu/manifests/precise", ("ubuntu", "precise")),
        ("a/b/c/manifests/v1.0", ("a/b/c", "v1.0")),
        (f"a/manifests/{DIGEST}", ("a", DIGEST)),
        ("manifests/manifests/manifests", ("manifests", "manifests")),
        ("a/manifests/b/manifests/c", ("a/manifests/b", "c")),
        ("a/tags/list", None),
        ("manifests/a", None),
        ("", None),
    ],
)
def test_a_path_names_a_repository_and_a_reference(rest: str, named: tuple[str, str | Digest] | None) -> None:
    assert parse_path(rest) == named


@given(st.text() | st.builds("{}/manifests/{}".format, st.text(), st.text()))
def test_any_path_yields_only_valid_names(rest: str) -> None:
    try:
        named = parse_path(rest)
    except InvalidName:
        return
    if named is not None:
        scope, reference = named
        assert parse_scope(scope) == scope
        assert parse_reference(str(reference)) == reference
        assert rest == f"{scope}/manifests/{reference}"


@pytest.mark.parametrize("accept", [None, "", "*/*", "application/json", DOCKER_MANIFEST, OCI_MANIFEST])
def test_a_tag_without_a_list_in_accept_gets_ids(accept: str | None) -> None:
    assert wants_ids("latest", accept, None)
    assert not wants_ids(DIGEST, accept, None)


@pytest.mark.parametrize("kind", [DOCKER_LIST, OCI_INDEX])
@pytest.mark.parametrize("form", ["{}", "*/*,{}", "{};q=0.1", " {} ; q=0.001", "a;b={}, {}", "{};charset=q"])
def test_a_list_in_accept_yields_no_ids(kind: str, form: str) -> None:
    assert not wants_ids("latest", form.format(kind, kind), None)
    assert not wants_ids("latest", form.format(kind, kind).upper(), None)


@pytest.mark.parametrize("weight", ["q=0", "q=0.0", "q=0.000", "Q=0"])
def test_a_list_with_weight_zero_is_not_accepted(weight: str) -> None:
    assert wants_ids("latest", f"*/*, {OCI_INDEX};{weight}", None)


@pytest.mark.parametrize(("said", "expected"), [("true", True), ("1", True), ("FALSE", False), ("no", False)])
def test_the_query_overrides_accept(said: str, expected: bool) -> None:
    for reference in ("latest", DIGEST):
        for accept in (None, OCI_INDEX):
            assert wants_ids(reference, accept, said) is expected


def test_another_value_in_the_query_is_refused() -> None:
    with pytest.raises(InvalidName, match="rbtorrent"):
        wants_ids("latest", None, "perhaps")


@given(st.text())
def test_any_accept_header_can_be_parsed(accept: str) -> None:
    assert wants_ids("latest", accept, None) in (True, False)


def test_the_platform_is_the_requested_or_the_configured_one() -> None:
    assert requested_platform("linux/arm/v7", "linux/amd64") == Platform("linux", "arm", "v7")
    assert requested_platform(None, "linux/amd64") == Platform("linux", "amd64")
    with pytest.raises(InvalidName):
        requested_platform("linux", "linux/amd64")
