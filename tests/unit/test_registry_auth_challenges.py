"""WWW-Authenticate, as specified in RFC 9110 (11.6.1) and as sent by servers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.registry.auth import Challenge, parse_challenges

REALM = "https://auth.example.com/token"


def test_a_registry_s_bearer_challenge() -> None:
    value = f'Bearer realm="{REALM}",service="registry.example.com",scope="repository:a/b:pull,push"'
    assert parse_challenges([value]) == (
        Challenge(
            "bearer",
            {"realm": REALM, "service": "registry.example.com", "scope": "repository:a/b:pull,push"},
        ),
    )


def test_a_registry_s_basic_challenge() -> None:
    assert parse_challenges(['Basic realm="Registry Realm"']) == (
        Challenge("basic", {"realm": "Registry Realm"}),
    )


@pytest.mark.parametrize(
    "values",
    [
        ['Basic realm="a"', f'Bearer realm="{REALM}",scope="x"'],
        [f'Basic realm="a", Bearer realm="{REALM}", scope="x"'],
        [f'bAsIc REALM=a,,  ,BEARER Realm = "{REALM}" , Scope =x'],
    ],
)
def test_several_challenges_in_one_line_or_many(values: list[str]) -> None:
    assert parse_challenges(values) == (
        Challenge("basic", {"realm": "a"}),
        Challenge("bearer", {"realm": REALM, "scope": "x"}),
    )


def test_the_example_of_the_rfc() -> None:
    value = 'Basic realm="simple", Newauth realm="apps", type=1,  title="Login to \\"apps\\""'
    assert parse_challenges([value]) == (
        Challenge("basic", {"realm": "simple"}),
        Challenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
    )


def test_schemes_without_parameters_or_with_a_token68() -> None:
    assert parse_challenges(["Negotiate, NTLM", "Negotiate YII=, Basic realm=a"]) == (
        Challenge("negotiate"),
        Challenge("ntlm"),
        Challenge("negotiate"),
        Challenge("basic", {"realm": "a"}),
    )


def test_commas_and_escapes_in_quotes() -> None:
    value = 'Bearer realm="a,b=\\"c\\", Basic realm=d",service="\\\\"'
    assert parse_challenges([value]) == (
        Challenge("bearer", {"realm": 'a,b="c", Basic realm=d', "service": "\\"}),
    )


def test_parameters_may_be_separated_by_blanks() -> None:
    assert parse_challenges([f'Bearer realm="{REALM}" service="s"']) == (
        Challenge("bearer", {"realm": REALM, "service": "s"}),
    )


def test_the_first_of_repeated_parameters_counts() -> None:
    assert parse_challenges([f'Bearer realm="{REALM}",realm="http://evil.example"'])[0].parameters == {
        "realm": REALM
    }


@pytest.mark.parametrize("value", ["", " , ,", "=", '"Basic"', "\x00", "realm=a", "Ba sic\x7f=,"])
def test_garbage_yields_no_challenge_with_parameters(value: str) -> None:
    assert all(not challenge.parameters for challenge in parse_challenges([value]))


def test_challenges_before_garbage_count() -> None:
    assert parse_challenges(['Basic realm="a", Bearer realm="not ended']) == (
        Challenge("basic", {"realm": "a"}),
        Challenge("bearer"),
    )


@given(st.lists(st.text(max_size=80), max_size=3))
def test_any_text_can_be_parsed(values: list[str]) -> None:
    for challenge in parse_challenges(values):
        assert challenge.scheme
        assert challenge.scheme == challenge.scheme.lower()


@given(st.text('Bearlm="\\,; x\t', max_size=200))
def test_any_text_of_syntax_characters_can_be_parsed(value: str) -> None:
    assert len(parse_challenges([value])) <= len(value)


@pytest.mark.parametrize("part", ['"', "\\", "a=", ",", "a ", 'a="', 'a="b",', "Basic a=b,", " "])
def test_a_huge_header_is_parsed_in_linear_time(part: str) -> None:
    # Quadratic time would exceed the time-out of the test.
    parse_challenges([("Bearer " + part * 100_000)] * 10)


_WORDS = st.text("abcXYZ-09", min_size=1, max_size=8)


@given(
    st.lists(
        st.tuples(
            _WORDS, st.dictionaries(_WORDS.map(str.lower), st.text(max_size=20), min_size=1, max_size=4)
        ),
        max_size=4,
    )
)
def test_well_formed_headers_are_parsed(
    meant: list[tuple[str, dict[str, str]]],
) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    line = ", ".join(
        f"{scheme} " + ", ".join(f"{name}={quoted(value)}" for name, value in parameters.items())
        for scheme, parameters in meant
    )
    assert parse_challenges([line]) == tuple(
        Challenge(scheme.lower(), parameters) for scheme, parameters in meant
    )
