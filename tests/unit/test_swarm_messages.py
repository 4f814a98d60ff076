"""The JSON of swarm calls: messages survive encoding, and hostile input is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import SwarmMessageInvalid
from core.swarm.bitmap import Bitmap
from core.swarm.chunks import MAX_CHUNKS
from core.swarm.messages import (
    MAX_ANSWER,
    MAX_FETCHED,
    MAX_LEASES,
    MAX_PEERS,
    MAX_REQUEST,
    MAX_SEEDS,
    Lease,
    Peer,
    Seed,
    SeedsAnswer,
    SeedsRequest,
    SwarmAnswer,
    SwarmRequest,
)

PAGE = Path(__file__).parents[2] / "docs" / "http-api.md"
LONG_CAPABILITY = "A" * 400
NODE = "0123456789abcdef" * 2
REQUEST: dict[str, Any] = {
    "node": NODE,
    "port": 6881,
    "chunks": 10,
    "held": "gEA=",
    "fetched": [0],
    "complete": False,
}
ANSWER: dict[str, Any] = {
    "peers": [{"ip": "10.0.0.7", "port": 6881}],
    "leases": [{"chunk": 3, "seconds": 5}],
    "again": 1.5,
    "capability": "abc",
}


def body(fields: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps(fields | changes).encode()


def test_a_request_is_decoded() -> None:
    request = SwarmRequest.decode(body(REQUEST))

    assert (request.port, request.chunks, request.fetched) == (6881, 10, [0])
    assert list(request.held_chunks) == [0, 9]
    assert (request.complete, request.stopped, request.want) == (False, False, 16)


def test_an_answer_is_decoded() -> None:
    answer = SwarmAnswer.decode(body(ANSWER))

    assert answer.peers == [Peer(ip="10.0.0.7", port=6881)]
    assert answer.leases == [Lease(chunk=3, seconds=5.0)]
    assert (answer.again, answer.capability) == (1.5, "abc")


def test_messages_are_the_same_after_encoding_and_decoding() -> None:
    request = SwarmRequest(
        node=NODE, port=1, chunks=300, held=Bitmap.of(300, [299]).to_base64(), fetched=[4], want=2
    )
    answer = SwarmAnswer.decode(body(ANSWER))
    seeds = SeedsRequest(node=NODE, port=6881, layers=[Seed(capability="abc", hex="a" * 64, chunks=7)])
    renewed = SeedsAnswer(again=600, capabilities=["abc", None])

    assert SwarmRequest.decode(request.encode()) == request
    assert SwarmAnswer.decode(answer.encode()) == answer
    assert SeedsRequest.decode(seeds.encode()) == seeds
    assert SeedsAnswer.decode(renewed.encode()) == renewed


def test_the_longest_messages_fit() -> None:
    request = SwarmRequest(
        node=NODE,
        port=65_535,
        chunks=MAX_CHUNKS,
        held=Bitmap.full(MAX_CHUNKS).to_base64(),
        fetched=[MAX_CHUNKS - 1] * MAX_FETCHED,
    )
    address = "2001:db8:1111:2222:3333:4444:5555:6666"
    answer = SwarmAnswer(
        peers=[Peer(ip=address, port=65_535)] * MAX_PEERS,
        leases=[Lease(chunk=MAX_CHUNKS - 1, seconds=12.345678901234567)] * MAX_LEASES,
        again=12.345678901234567,
        capability=LONG_CAPABILITY,
    )
    seeds = SeedsRequest(
        node=NODE,
        port=65_535,
        layers=[Seed(capability=LONG_CAPABILITY, hex="f" * 64, chunks=MAX_CHUNKS)] * MAX_SEEDS,
    )
    renewed = SeedsAnswer(again=600, capabilities=[LONG_CAPABILITY] * MAX_SEEDS)

    assert len(request.encode()) <= MAX_REQUEST
    assert len(seeds.encode()) <= MAX_REQUEST
    assert len(answer.encode()) <= MAX_ANSWER
    assert len(renewed.encode()) <= MAX_ANSWER


def test_unknown_fields_are_ignored() -> None:
    assert SwarmRequest.decode(body(REQUEST, later={"x": [1]})) == SwarmRequest.decode(body(REQUEST))


@pytest.mark.parametrize(
    "changes",
    [
        {"node": NODE.upper()},
        {"node": NODE + "\n"},
        {"node": ""},
        {"port": 0},
        {"port": 65_536},
        {"port": "6881"},
        {"port": True},
        {"port": 6881.0},
        {"port": None},
        {"chunks": 0},
        {"chunks": MAX_CHUNKS + 1},
        {"chunks": 11, "held": "gEA=", "fetched": [11]},
        {"chunks": 17},
        {"held": "gGA="},
        {"held": "!"},
        {"held": [0]},
        {"held": "A" * 20_000},
        {"fetched": [10]},
        {"fetched": [-1]},
        {"fetched": [0.0]},
        {"fetched": [0] * (MAX_FETCHED + 1)},
        {"fetched": {"0": 0}},
        {"complete": 1},
        {"complete": "false"},
        {"stopped": 0},
        {"want": -1},
        {"want": MAX_LEASES + 1},
    ],
    ids=str,
)
def test_a_request_that_breaks_a_rule_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SwarmMessageInvalid):
        SwarmRequest.decode(body(REQUEST, **changes))


@pytest.mark.parametrize("missing", ["node", "port", "chunks", "held"])
def test_a_request_without_a_required_field_is_refused(missing: str) -> None:
    with pytest.raises(SwarmMessageInvalid, match=missing):
        SwarmRequest.decode(json.dumps({k: v for k, v in REQUEST.items() if k != missing}).encode())


@pytest.mark.parametrize(
    "changes",
    [
        {"peers": ANSWER["peers"] * (MAX_PEERS + 1)},
        {"peers": [{"ip": "registry.example.com", "port": 1}]},
        {"peers": [{"ip": "10.0.0.256", "port": 1}]},
        {"peers": [{"ip": "10.0.0.1", "port": 0}]},
        {"peers": [["10.0.0.1", 1]]},
        {"leases": [{"chunk": -1, "seconds": 5}]},
        {"leases": [{"chunk": 1, "seconds": 0}]},
        {"leases": [{"chunk": 1, "seconds": 1e9}]},
        {"leases": ANSWER["leases"] * (MAX_LEASES + 1)},
        {"again": 0},
        {"again": -1},
        {"again": float("nan")},
        {"again": float("inf")},
        {"again": 1e6},
        {"capability": ""},
        {"capability": "a/b"},
        {"capability": "a\n"},
        {"capability": "a" * 513},
    ],
    ids=str,
)
def test_an_answer_that_breaks_a_rule_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SwarmMessageInvalid):
        SwarmAnswer.decode(body(ANSWER, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": [{"capability": "abc", "hex": "A" * 64, "chunks": 1}]},
        {"layers": [{"capability": "abc", "hex": "a" * 63, "chunks": 1}]},
        {"layers": [{"capability": "a/b", "hex": "a" * 64, "chunks": 1}]},
        {"layers": [{"capability": "abc", "hex": "a" * 64, "chunks": 0}]},
        {"layers": [{"capability": "abc", "hex": "a" * 64, "chunks": 1}] * (MAX_SEEDS + 1)},
        {"layers": None},
    ],
    ids=str,
)
def test_an_announcement_that_breaks_a_rule_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SwarmMessageInvalid):
        SeedsRequest.decode(body({"node": NODE, "port": 1, "layers": []}, **changes))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"port": 1e400}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b'{"port": ' + b"9" * 10_000 + b"}",
        b"\xff\xfe",
        b'"\\ud800"',
        b" " * (MAX_REQUEST + 1),
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_an_invalid_message_is_refused(raw: bytes) -> None:
    with pytest.raises(SwarmMessageInvalid):
        SwarmRequest.decode(raw)


def test_the_reason_does_not_quote_the_message() -> None:
    with pytest.raises(SwarmMessageInvalid) as refused:
        SwarmAnswer.decode(body(ANSWER, capability="secret/secret"))

    assert "secret" not in str(refused.value)
    assert "capability" in str(refused.value)


@given(st.binary(max_size=300))
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    for message in (SwarmRequest, SwarmAnswer, SeedsRequest, SeedsAnswer):
        try:
            message.decode(raw)
        except SwarmMessageInvalid as refused:
            assert len(str(refused)) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=10,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*REQUEST, "stopped", "want"), JSON)))
def test_any_json_is_decoded_or_refused(fields: dict[str, Any]) -> None:
    try:
        request = SwarmRequest.decode(json.dumps({**REQUEST, **fields}).encode())
    except SwarmMessageInvalid:
        return
    assert all(0 <= chunk < request.chunks for chunk in [*request.fetched, *request.held_chunks])


def test_the_messages_in_the_docs_are_valid() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## The swarm\n")[2].partition("\n## ")[0]
    shown = [text.encode() for text in re.findall(r"^```json\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)]
    kinds = [SwarmRequest, SwarmAnswer, SeedsRequest, SeedsAnswer]

    assert len(shown) == len(kinds)
    for kind, text in zip(kinds, shown, strict=True):
        assert json.loads(kind.decode(text).encode()) == json.loads(text)
