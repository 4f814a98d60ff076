"""Capabilities: created for one layer and one scope, for a limited time."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.digest import Digest
from core.errors import CapabilityInvalid
from core.torrents.capability import Capability, mint, verify

SECRET = b"a secret of thirty-two bytes, no?"
LAYER = Digest("a" * 64)
OTHER_LAYER = Digest("b" * 64)
NOON = 1_700_000_000


def test_a_capability_is_valid_for_its_layer_until_it_expires() -> None:
    token = mint(SECRET, LAYER, "library/ubuntu", NOON)
    assert verify(SECRET, token, LAYER, NOON - 0.001) == Capability("library/ubuntu", NOON)


@pytest.mark.parametrize("now", [NOON, NOON + 1, 2 * NOON])
def test_an_expired_capability_is_refused(now: int) -> None:
    with pytest.raises(CapabilityInvalid, match="expired"):
        verify(SECRET, mint(SECRET, LAYER, "ubuntu", NOON), LAYER, now)


def test_a_capability_for_another_layer_is_refused() -> None:
    with pytest.raises(CapabilityInvalid):
        verify(SECRET, mint(SECRET, LAYER, "ubuntu", NOON), OTHER_LAYER, 0)


def test_a_capability_signed_with_another_secret_is_refused() -> None:
    with pytest.raises(CapabilityInvalid):
        verify(b"other" + SECRET, mint(SECRET, LAYER, "ubuntu", NOON), LAYER, 0)


def test_a_truncated_capability_is_refused() -> None:
    token = mint(SECRET, LAYER, "ubuntu", NOON)
    for length in range(len(token)):
        with pytest.raises(CapabilityInvalid):
            verify(SECRET, token[:length], LAYER, 0)


def test_a_capability_with_a_changed_character_is_refused() -> None:
    token = mint(SECRET, LAYER, "ubuntu", NOON)
    for place, sign in enumerate(token):
        for other in "Aw-_9=/+.":
            if other != sign:
                with pytest.raises(CapabilityInvalid):
                    verify(SECRET, token[:place] + other + token[place + 1 :], LAYER, 0)


@pytest.mark.parametrize("added", ["=", "==", "A", "AAAA", "\n", " ", "%3D"])
def test_a_capability_with_an_addition_is_refused(added: str) -> None:
    with pytest.raises(CapabilityInvalid):
        verify(SECRET, mint(SECRET, LAYER, "ubuntu", NOON) + added, LAYER, 0)


@given(st.text(max_size=600))
def test_any_other_text_is_refused(token: str) -> None:
    with pytest.raises(CapabilityInvalid) as caught:
        verify(SECRET, token, LAYER, 0)
    assert len(token) < 12 or token not in str(caught.value)


@given(st.from_regex(r"[a-z0-9]{1,60}(/[a-z0-9]{1,60}){0,3}", fullmatch=True), st.integers(1, 2**40))
def test_a_capability_is_one_path_element_and_contains_its_scope(scope: str, expires: int) -> None:
    token = mint(SECRET, LAYER, scope, expires)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert verify(SECRET, token, LAYER, expires - 1) == Capability(scope, expires)


def test_the_longest_scope_fits() -> None:
    scope = "a" * 255
    assert verify(SECRET, mint(SECRET, LAYER, scope, NOON), LAYER, 0).scope == scope
