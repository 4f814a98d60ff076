"""Which blobs are brewed: by a descriptor, or by the first bytes where no descriptor is known."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.layer import HEAD_BYTES, looks_like_layer, why_not_brewed


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
def test_anything_but_a_json_object_is_a_layer(kind: str) -> None:
    assert looks_like_layer(LAYERS[kind][:HEAD_BYTES])


@pytest.mark.parametrize("kind", OTHERS)
def test_json_objects_and_empty_input_are_refused(kind: str) -> None:
    assert not looks_like_layer(OTHERS[kind][:HEAD_BYTES])


@given(st.dictionaries(st.text(), st.integers() | st.text()), st.none() | st.integers(0, 9))
def test_json_objects_in_any_format_are_not_layers(value: object, indent: int | None) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=False).encode("utf-8", "replace")
    assert not looks_like_layer(text[:HEAD_BYTES])


BREWED = [
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
    "application/vnd.ollama.image.model",
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/octet-stream",
    "",
]


@pytest.mark.parametrize("media_type", BREWED)
def test_layers_of_any_type_are_brewed(media_type: str) -> None:
    assert why_not_brewed(media_type, 10) is None
    assert why_not_brewed(media_type, None) is None
    assert why_not_brewed(media_type, 0) == "empty"
    assert why_not_brewed(media_type, 10, has_urls=True) == "foreign"


@pytest.mark.parametrize(
    ("media_type", "why"),
    [
        ("application/vnd.in-toto+json", "document"),
        ("application/vnd.dsse.envelope.v1+json", "document"),
        ("application/vnd.dev.cosign.simplesigning.v1+json", "document"),
        ("application/vnd.oci.image.config.v1+json", "document"),
        ("Application/JSON; charset=utf-8", "document"),
        ("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "foreign"),
        ("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "foreign"),
    ],
)
def test_documents_and_foreign_layers_are_not_brewed(media_type: str, why: str) -> None:
    assert why_not_brewed(media_type, 10) == why
