"""A blob's first bytes tell whether it is a layer."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.blobs.storage_layout import HEAD_BYTES, looks_like_layer


def tar(name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo(name))
    return packed.getvalue()


LAYERS = {
    "gzip": gzip.compress(tar("a")),
    "zstd": b"\x28\xb5\x2f\xfd" + bytes(20),
    "xz": lzma.compress(tar("a")),
    "a plain tar": tar("bin/sh"),
    "a tar of a file named like JSON": tar('{"schemaVersion": 2}'),
    "an encrypted layer": b'{"\xff\xfe\x00\x81' * 100,
    "text": b"#!/bin/sh\necho an artifact\n",
    "a JSON array": b"[1, 2, 3]",
    "a template": b"{{ define }} is no JSON",
}

OTHERS = {
    "nothing": b"",
    "a manifest": json.dumps({"schemaVersion": 2, "layers": [{"size": 1}] * 90}, indent=3).encode(),
    "a config": json.dumps({"architecture": "amd64", "config": {}}).encode(),
    "the empty config": b"{}",
    "a statement of in-toto": b'{"_type":"https://in-toto.io/Statement/v0.1"}',
    "JSON after white space": b"\n\t " + json.dumps({"a": 1}).encode(),
    "JSON after a byte order mark": "\ufeff{}".encode(),
    "JSON with its first key far away": b"{" + b" " * 600 + b'"a":1}',
    "JSON cut within a character": b'{"' + "ü".encode() * 300,
}


@pytest.mark.parametrize("kind", LAYERS)
def test_what_is_no_json_object_is_a_layer(kind: str) -> None:
    assert looks_like_layer(LAYERS[kind][:HEAD_BYTES])


@pytest.mark.parametrize("kind", OTHERS)
def test_json_objects_and_nothing_at_all_are_none(kind: str) -> None:
    assert not looks_like_layer(OTHERS[kind][:HEAD_BYTES])


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.none() | st.integers(0, 9))
def test_no_json_object_is_taken_for_a_layer_however_it_is_written(value: object, indent: int | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "replace")
    assert not looks_like_layer(text[:HEAD_BYTES])
