"""Augmenting manifests with rbtorrent ids, and choosing the image of a list."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.digest import Digest
from core.errors import ManifestInvalid
from core.manifests.augment import FIELD, augment, names_an_id, pick
from core.manifests.manifest import Image, Index, parse_manifest
from core.manifests.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from core.manifests.platform import Platform

LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
A, B, C, D = (Digest(letter * 64) for letter in "abcd")
ID_A, ID_B = "rbtorrent:" + "1" * 40, "rbtorrent:" + "2" * 40


def layer(digest: Digest | str = A, size: int = 7, **more: Any) -> dict[str, Any]:
    return {"mediaType": LAYER, "size": size, "digest": str(digest), **more}


def manifest(*layers: Any, **more: Any) -> dict[str, Any]:
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "size": 2, "digest": str(C)}
    return {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": config,
        "layers": list(layers),
        **more,
    }


def augmented(text: str, ids: dict[Digest, str], media_type: str = DOCKER_MANIFEST) -> str:
    image = parse_manifest(text.encode(), media_type)
    assert isinstance(image, Image)
    return augment(text.encode(), image, ids).decode()


# As the README of the original service shows an answer, cut to two of its layers.
SEED = """{
  "schemaVersion": 2,
  "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
  "config": {
    "mediaType": "application/vnd.docker.container.image.v1+json",
    "size": 5013,
    "digest": "sha256:50e7fb0ef7a7859ff5c021ef83943bf1c20672bd39cb0566ae14212ed15d4676"
  },
  "layers": [
    {
      "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
      "size": 40000566,
      "digest": "sha256:8af661395bb22734e6f7a4f2b71a3847e458e0e32c66cf24e4aba86a60bfbf1c",
      "rbtorrent_id": "rbtorrent:ad6ace9412876f9c2928bb5ba770b36019294536"
    },
    {
      "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
      "size": 58971,
      "digest": "sha256:a9eddfc29172122f3d693c910f3a2099d559cecc707a6eece94ba2fec6b1c0b2",
      "rbtorrent_id": "rbtorrent:c0e2ada473bd8a152f440cf16e745e532d7ed57d"
    }
  ]
}"""
SEED_IDS = {
    Digest(
        "8af661395bb22734e6f7a4f2b71a3847e458e0e32c66cf24e4aba86a60bfbf1c"
    ): "rbtorrent:ad6ace9412876f9c2928bb5ba770b36019294536",
    Digest(
        "a9eddfc29172122f3d693c910f3a2099d559cecc707a6eece94ba2fec6b1c0b2"
    ): "rbtorrent:c0e2ada473bd8a152f440cf16e745e532d7ed57d",
}


def without_ids(text: str) -> str:
    stripped = json.loads(text)
    for descriptor in stripped["layers"]:
        del descriptor[FIELD]
    return json.dumps(stripped, indent=2)


def test_the_original_example_is_reproduced_byte_for_byte() -> None:
    assert augmented(without_ids(SEED), SEED_IDS) == SEED


@pytest.mark.parametrize("indent", [None, 1, 2, 3, "\t"])
def test_the_indentation_stays(indent: int | str | None) -> None:
    before, after = manifest(layer(A), layer(B)), manifest(layer(A, rbtorrent_id=ID_A), layer(B))
    assert augmented(json.dumps(before, indent=indent), {A: ID_A}) == json.dumps(after, indent=indent)


def test_a_compact_manifest_stays_compact() -> None:
    compact = (",", ":")
    before, after = manifest(layer(A)), manifest(layer(A, rbtorrent_id=ID_A))
    assert augmented(json.dumps(before, separators=compact), {A: ID_A}) == json.dumps(
        after, separators=compact
    )


def test_the_id_is_the_last_field_after_fields_of_any_name() -> None:
    text = json.dumps(manifest(layer(A, zebra=1, annotations={"a": "b"})))
    descriptor = json.loads(augmented(text, {A: ID_A}))["layers"][0]
    assert list(descriptor) == ["mediaType", "size", "digest", "zebra", "annotations", FIELD]


def test_without_ids_the_bytes_are_the_registrys() -> None:
    text = json.dumps(manifest(layer(A))).replace(", ", " ,\n  ").replace(": ", " :")
    assert augmented(text, {B: ID_B}) == text


def test_an_id_that_was_pushed_with_the_manifest_is_removed() -> None:
    text = json.dumps(manifest(layer(A, rbtorrent_id="rbtorrent:" + "f" * 40), layer(B)))
    assert augmented(text, {}) == json.dumps(manifest(layer(A), layer(B)))


def test_an_id_that_was_pushed_with_the_manifest_is_replaced() -> None:
    pushed = {FIELD: "rbtorrent:" + "f" * 40, **layer(A)}
    assert augmented(json.dumps(manifest(pushed)), {A: ID_A}) == json.dumps(
        manifest(layer(A, rbtorrent_id=ID_A))
    )


@pytest.mark.parametrize("field", ["Rbtorrent_ID", "RBTORRENT_ID"])
def test_a_pushed_id_in_another_case_is_removed_too(field: str) -> None:
    text = json.dumps(manifest(layer(A, **{field: "rbtorrent:" + "f" * 40})))
    assert augmented(text, {}) == json.dumps(manifest(layer(A)))


def test_a_repeated_layer_gets_its_id_each_time() -> None:
    layers = json.loads(augmented(json.dumps(manifest(layer(A), layer(A))), {A: ID_A}))["layers"]
    assert [descriptor[FIELD] for descriptor in layers] == [ID_A, ID_A]


def test_texts_beyond_ascii_and_large_numbers_stay() -> None:
    text = json.dumps(manifest(layer(A), note="Größe ≤ 1 µm", many=10**40), ensure_ascii=False)
    after = augmented(text, {A: ID_A})
    assert "Größe ≤ 1 µm" in after
    assert str(10**40) in after


def test_layers_that_are_not_brewed_get_no_id() -> None:
    others = [
        layer(B, size=0),
        layer(C, urls=["https://example.com/"]),
        {**layer(D), "mediaType": "application/vnd.in-toto+json"},
    ]
    body = json.dumps(manifest(layer(A), *others))
    image = parse_manifest(body.encode(), DOCKER_MANIFEST)
    assert isinstance(image, Image)
    assert [one.digest for one in image.layers if one.brewable] == [A]
    ids = dict.fromkeys((A, B, C, D), ID_A)
    assert augmented(body, ids) == json.dumps(manifest(layer(A, rbtorrent_id=ID_A), *others))


UNWRITABLE = ["1e999", '"\\ud800"']


@pytest.mark.parametrize("note", UNWRITABLE)
@pytest.mark.parametrize("field", [FIELD, "rb\\u0074orrent\\u005Fid", "RBTORRENT_ID"])
def test_a_pushed_id_that_cannot_be_removed_makes_the_manifest_invalid(note: str, field: str) -> None:
    text = json.dumps(manifest(layer(A, pushed="rbtorrent:" + "f" * 40), note=0))
    text = text.replace('"pushed"', f'"{field}"').replace('"note": 0', f'"note": {note}')
    for ids in ({}, {A: ID_A}):
        with pytest.raises(ManifestInvalid, match="cannot be removed"):
            augmented(text, ids)


@pytest.mark.parametrize("body", [b'{"rbtorrent_id": 1', b'\xff"RbTorrent_Id"', rb'"\u0072btorrent\u005fid"'])
def test_an_id_is_found_outside_json_too(body: bytes) -> None:
    assert names_an_id(body)
    assert not names_an_id(body.replace(b"o", b"0"))


@pytest.mark.parametrize("note", UNWRITABLE)
def test_a_manifest_that_cannot_be_reproduced_is_not_augmented(note: str) -> None:
    text = json.dumps(manifest(layer(A), note=0)).replace('"note": 0', f'"note": {note}')
    assert note in text
    assert augmented(text, {A: ID_A}) == text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(more=st.dictionaries(st.text(), JSON), of_layer=st.dictionaries(st.text(), JSON))
def test_all_fields_of_a_manifest_are_kept(more: dict[str, Any], of_layer: dict[str, Any]) -> None:
    before = {**more, **manifest({**of_layer, **layer(A)}, layer(B))}
    try:
        image = parse_manifest(json.dumps(before).encode(), DOCKER_MANIFEST)
    except ManifestInvalid:
        return
    assert isinstance(image, Image)
    after = json.loads(augment(json.dumps(before).encode(), image, {A: ID_A}))
    assert after["layers"][0].pop(FIELD) == ID_A
    assert after == before


AMD64, ARM, ARM7 = (Platform.parse(text) for text in ("linux/amd64", "linux/arm", "linux/arm/v7"))


def entry(digest: Digest | str, platform: object = None, **more: Any) -> dict[str, Any]:
    described = {"mediaType": OCI_MANIFEST, "size": 100, "digest": str(digest), **more}
    return described if platform is None else {**described, "platform": platform}


def index(*entries: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries)}).encode()


def on(architecture: str, variant: str = "", os: str = "linux") -> dict[str, str]:
    named = {"architecture": architecture, "os": os}
    return {**named, "variant": variant} if variant else named


def picked(body: bytes, platform: Platform) -> list[Digest]:
    found = parse_manifest(body, OCI_INDEX)
    assert isinstance(found, Index)
    return [child.digest for child in pick(found, platform)]


def test_the_image_for_the_platform_is_picked() -> None:
    body = index(entry(A, on("arm", "v7")), entry(B, on("amd64")), entry(C, on("amd64", os="windows")))
    assert picked(body, AMD64) == [B]
    assert picked(body, ARM) == [A]
    assert picked(body, Platform.parse("linux/arm/v6")) == []


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("linux/arm64/v8", on("arm64")),
        ("linux/arm64", on("arm64", "v8")),
        ("linux/arm64/v8", on("arm64", "8")),
        ("linux/aarch64", on("arm64", "v8")),
        ("linux/amd64/v1", on("amd64")),
        ("linux/amd64", on("amd64", "v1")),
        ("linux/x86_64", on("amd64")),
        ("linux/amd64/v1", on("x86_64")),
        ("linux/arm/v7", on("arm")),
        ("linux/arm/7", on("arm", "v7")),
        ("linux/arm", on("arm", "v6")),
    ],
)
def test_a_platform_is_found_by_any_of_its_names(wanted: str, offered: dict[str, str]) -> None:
    assert picked(index(entry(B, on("s390x")), entry(A, offered)), Platform.parse(wanted)) == [A]


@pytest.mark.parametrize(
    ("wanted", "offered"),
    [
        ("linux/arm64/v9", on("arm64")),
        ("linux/amd64/v1", on("amd64", "v3")),
        ("linux/amd64/v3", on("amd64")),
        ("linux/arm/v6", on("arm")),
        ("linux/arm/v8", on("arm64", "v8")),
    ],
)
def test_another_variant_is_another_platform(wanted: str, offered: dict[str, str]) -> None:
    assert picked(index(entry(A, offered)), Platform.parse(wanted)) == []


def test_the_usual_variant_comes_first() -> None:
    body = index(entry(A, on("amd64", "v3")), entry(B, on("amd64")), entry(C, mediaType=OCI_INDEX))
    assert picked(body, AMD64) == [B, A, C]


def test_an_index_within_an_index_comes_after_the_images() -> None:
    body = index(entry(A, mediaType=OCI_INDEX), entry(B, on("amd64")))
    assert picked(body, AMD64) == [B, A]


def test_an_image_without_a_platform_comes_last() -> None:
    body = index(entry(A), entry(B, mediaType=DOCKER_LIST), entry(C, on("amd64")))
    assert picked(body, AMD64) == [C, B, A]


def test_an_index_for_another_platform_is_skipped() -> None:
    assert picked(index(entry(A, on("arm"), mediaType=OCI_INDEX)), AMD64) == []


def test_attestations_are_not_images() -> None:
    mark = {"vnd.docker.reference.type": "attestation-manifest"}
    body = index(
        entry(A, on("unknown", os="unknown")),
        entry(B, on("amd64"), annotations=mark),
        entry(C, annotations=mark),
    )
    assert picked(body, AMD64) == []


def test_children_that_are_not_images_are_skipped() -> None:
    body = index(entry(A, on("amd64"), mediaType="application/vnd.example.sbom+json"), entry(B, on("amd64")))
    assert picked(body, AMD64) == [B]
