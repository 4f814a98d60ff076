"""Any bytes as a manifest are either parsed or refused with ManifestInvalid."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from core.digest import Digest
from core.errors import ManifestInvalid
from core.manifests.manifest import Image, Index, Other, has_other_digest, parse_manifest
from core.manifests.media_types import ALL_MANIFESTS, DOCKER_SCHEMA1
from tests.manifests import image, index

CONTENT_TYPES = st.sampled_from(["", "application/json", DOCKER_SCHEMA1, *ALL_MANIFESTS]) | st.text(
    max_size=40
)
ODD_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*ALL_MANIFESTS, "sha256:" + "a" * 64, "sha512:" + "a" * 128, "../../etc", 2**63, -1]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to every value in a JSON document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, inner in inside for found in paths(inner, (*path, key)))]


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Return the document with the value at `path` replaced."""
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = put(copy[path[0]], path[1:], value)
    return copy


def parse_or_none(body: bytes, content_type: str) -> Image | Index | Other | None:
    try:
        return parse_manifest(body, content_type)
    except ManifestInvalid as error:
        str(error).encode()  # raises if it cannot be written to a log
        return None


def named(descriptors: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
    """Return the descriptors whose digest is SHA-256."""
    return [one for one in descriptors or () if not has_other_digest(one)]


def check_is_trustworthy(parsed: Image | Index | Other | None) -> None:
    if isinstance(parsed, Image):
        blobs = [*([parsed.config] if parsed.config else []), *parsed.layers]
        assert all(isinstance(blob.digest, Digest) and 0 <= blob.size < 2**63 for blob in blobs)
        assert all(blob.media_type.isascii() for blob in blobs)
        # Go writes an empty list as null, or leaves it out.
        assert len(named(parsed.document.get("layers"))) == len(parsed.layers)
    if isinstance(parsed, Index):
        assert all(isinstance(child.digest, Digest) for child in parsed.children)
        assert len(named(parsed.document.get("manifests"))) == len(parsed.children)


@given(st.binary(max_size=300), CONTENT_TYPES)
def test_any_bytes(body: bytes, content_type: str) -> None:
    check_is_trustworthy(parse_or_none(body, content_type))


@given(ODD_VALUES, CONTENT_TYPES)
def test_any_json(document: Any, content_type: str) -> None:
    check_is_trustworthy(parse_or_none(json.dumps(document).encode(), content_type))


@given(st.data(), CONTENT_TYPES)
def test_a_good_manifest_with_values_replaced(data: st.DataObject, content_type: str) -> None:
    document: Any = data.draw(st.sampled_from([image(), index()]))
    for _ in range(data.draw(st.integers(1, 3))):
        document = put(document, data.draw(st.sampled_from(paths(document))), data.draw(ODD_VALUES))
    check_is_trustworthy(parse_or_none(json.dumps(document).encode(), content_type))


@given(st.data())
def test_a_good_manifest_with_bytes_replaced(data: st.DataObject) -> None:
    body = bytearray(json.dumps(data.draw(st.sampled_from([image(), index()]))).encode())
    at = data.draw(st.integers(0, len(body)))
    body[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    check_is_trustworthy(parse_or_none(bytes(body), data.draw(CONTENT_TYPES)))
