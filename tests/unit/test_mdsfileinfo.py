"""The JSON in the tables of MDS is foreign input: it is validated or refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.blobs.mds import MdsFile, parse_mdsfileinfo


def test_only_key_and_size_are_read() -> None:
    text = '{"key": "30001/blob-3f", "size": 67108864, "id": "0:5d", "more": [1, {}]}'

    assert parse_mdsfileinfo(text) == MdsFile("30001/blob-3f", 67_108_864)


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", '"key"', "{", "{}", '{"key": "a"}', '{"size": 1}', '{"key": 1, "size": 1}',
        '{"key": null, "size": 1}', '{"key": "a", "size": "1"}', '{"key": "a", "size": -1}',
        '{"key": "a", "size": 1.5}', '{"key": "a", "size": true}', '{"key": "a", "size": null}',
        '{"key": "a", "size": 1e999}', '{"key": "a", "size": NaN}',
        '{"key": "a", "size": 9223372036854775808}', '{"key": "a", "size": ' + "9" * 5000 + "}",
        "[" * 50_000, '{"key": "a", "size": 1, "more": "' + "x" * 70_000 + '"}',
    ],
)  # fmt: skip
def test_an_invalid_file_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_mdsfileinfo(text)


@pytest.mark.parametrize(
    "key",
    ["", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../a", "a/../../b", "a/./b", "a\\..\\b", "a\nb",
     "a\x00", "a\u2028b", "\ud800", "x" * 1025],
)  # fmt: skip
def test_a_key_that_leads_elsewhere_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        parse_mdsfileinfo(json.dumps({"key": key, "size": 1}))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["key", "size", "id"]), inner),
    )
)
def test_any_json_is_a_file_or_a_value_error(said: object) -> None:
    try:
        file = parse_mdsfileinfo(json.dumps(said))
    except ValueError:
        return
    assert file.size >= 0
    assert ".." not in file.key.split("/")
