"""Addresses of callers: which of them are this machine."""

from __future__ import annotations

import pytest

from core.networks import is_loopback


@pytest.mark.parametrize("text", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_loopback_addresses_are_this_machine(text: str) -> None:
    assert is_loopback(text)


@pytest.mark.parametrize("text", ["", "10.0.0.1", "::", "0.0.0.0", "::ffff:10.0.0.1", "localhost", "unknown"])
def test_other_addresses_and_names_are_not(text: str) -> None:
    assert not is_loopback(text)
