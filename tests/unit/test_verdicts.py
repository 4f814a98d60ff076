"""The cache of positive verdicts: its lifetime, its keys and its size."""

from core.access.blackbox import GoodVerdicts
from tests.clock import Clock


def test_an_expired_verdict_is_replaced_by_a_new_one() -> None:
    clock = Clock()
    verdicts = GoodVerdicts(10, clock)
    verdicts.keep("token", "192.0.2.1")
    clock.now += 9
    assert verdicts.holds("token", "192.0.2.1")
    verdicts.keep("token", "192.0.2.1")
    clock.now += 9
    assert verdicts.holds("token", "192.0.2.1")
    clock.now += 1
    assert not verdicts.holds("token", "192.0.2.1")


def test_neither_another_token_nor_another_address_shares_it() -> None:
    verdicts = GoodVerdicts(10, Clock())
    verdicts.keep("token", "192.0.2.1")
    assert not verdicts.holds("token2", "192.0.2.1")
    assert not verdicts.holds("token", "192.0.2.12")
    assert not verdicts.holds("token\n192.0.2.1", "")


def test_the_oldest_is_evicted_beyond_the_limit() -> None:
    verdicts = GoodVerdicts(10, Clock(), limit=2)
    for token in ("a", "b", "a", "c"):
        verdicts.keep(token, "192.0.2.1")
    assert [verdicts.holds(token, "192.0.2.1") for token in ("a", "b", "c")] == [True, False, True]


def test_cached_verdicts_contain_no_token() -> None:
    verdicts = GoodVerdicts(10, Clock())
    verdicts.keep("throw-away-token", "192.0.2.1")
    assert "throw-away-token" not in str(vars(verdicts))
