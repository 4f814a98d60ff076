"""Parsing manifests: valid ones, and their media types."""

from __future__ import annotations

import hashlib
import json

import pytest

from core.digest import Digest
from core.errors import ManifestInvalid
from core.manifests.augment import augment
from core.manifests.manifest import Image, Index, Other, digest_of, parse_manifest
from core.manifests.media_types import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    OCI_INDEX,
    OCI_MANIFEST,
)
from core.manifests.platform import Platform
from tests.manifests import DIGESTS, LAYER_TYPE, child, image, index, layer, without


def parse(document: object, content_type: str = OCI_MANIFEST) -> Image | Index | Other:
    return parse_manifest(json.dumps(document).encode(), content_type)


def why_not(body: bytes, content_type: str = OCI_MANIFEST) -> str:
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(body, content_type)
    return caught.value.why


def why_not_document(document: object, content_type: str = OCI_MANIFEST) -> str:
    return why_not(json.dumps(document).encode(), content_type)


class TestAnImage:
    def test_has_its_layers_in_order_with_size_and_media_type(self) -> None:
        parsed = parse(image())
        assert isinstance(parsed, Image)
        assert [(str(one.digest), one.size, one.media_type) for one in parsed.layers] == [
            (DIGESTS[1], 101, LAYER_TYPE),
            (DIGESTS[2], 102, LAYER_TYPE),
        ]
        assert parsed.config is not None
        assert str(parsed.config.digest) == DIGESTS[0]
        assert parsed.config.size == 7

    @pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_MANIFEST])
    def test_may_be_docker_s_or_oci_s(self, media_type: str) -> None:
        parsed = parse(image(mediaType=media_type), media_type)
        assert isinstance(parsed, Image)
        assert parsed.media_type == media_type

    def test_keeps_the_order_of_its_fields(self) -> None:
        parsed = parse({"layers": [layer()], **without(image(), "layers")})
        assert isinstance(parsed, Image)
        assert list(parsed.document) == ["layers", "schemaVersion", "mediaType", "config"]

    def test_with_urls_in_a_layer_has_a_foreign_layer(self) -> None:
        parsed = parse(image(layers=[layer(1, urls=["https://example.com/layer"]), layer(2, urls=[])]))
        assert isinstance(parsed, Image)
        assert [one.why_not_brewed for one in parsed.layers] == ["foreign", None]

    def test_may_name_a_layer_twice(self) -> None:
        parsed = parse(image(layers=[layer(1), layer(2), layer(1)]))
        assert isinstance(parsed, Image)
        assert len(parsed.layers) == 3

    def test_may_have_a_layer_of_no_bytes_and_no_layers_at_all(self) -> None:
        empty = parse(image(layers=[layer(1, size=0)]))
        none = parse(image(layers=[]))
        assert isinstance(empty, Image)
        assert empty.layers[0].size == 0
        assert isinstance(none, Image)
        assert none.layers == ()

    @pytest.mark.parametrize("said", [OCI_MANIFEST, "", "application/json"])
    @pytest.mark.parametrize("own", [True, False], ids=["with mediaType", "without mediaType"])
    def test_may_have_no_layers_in_any_spelling(self, said: str, own: bool) -> None:
        # OCI image-spec #1016 and #1025: registries hold all three, and Go reads them alike.
        given = image() if own else without(image(), "mediaType")
        for document in (without(given, "layers"), {**given, "layers": None}, {**given, "layers": []}):
            parsed = parse(document, said)
            assert isinstance(parsed, Image)
            assert parsed.layers == ()
            body = json.dumps(document).encode()
            assert augment(body, parsed, {}) == body

    def test_may_have_blobs_with_digests_of_other_algorithms(self) -> None:
        other = f"sha512:{hashlib.sha512(b'other').hexdigest()}"
        layers = [layer(1), layer(3, digest=other), layer(2)]
        document = image(layers=layers, config=layer(0, digest=other))
        parsed = parse(document)
        assert isinstance(parsed, Image)
        assert parsed.config is None
        assert [str(one.digest) for one in parsed.layers] == DIGESTS[1:3]
        ids = {one.digest: f"rbtorrent:{number:040}" for number, one in enumerate(parsed.layers)}
        augmented = json.loads(augment(json.dumps(document).encode(), parsed, ids))["layers"]
        assert [one.get("rbtorrent_id") for one in augmented] == [
            f"rbtorrent:{0:040}",
            None,
            f"rbtorrent:{1:040}",
        ]

    def test_may_have_ten_thousand_layers(self) -> None:
        layers = [{**layer(), "digest": f"sha256:{number:064x}", "size": number} for number in range(10_000)]
        parsed = parse(image(layers=layers))
        assert isinstance(parsed, Image)
        assert len(parsed.layers) == 10_000
        assert parsed.layers[-1].size == 9_999


class TestAnIndex:
    @pytest.mark.parametrize("media_type", [DOCKER_LIST, OCI_INDEX])
    def test_has_children_with_platforms(self, media_type: str) -> None:
        arm = {"os": "linux", "architecture": "arm", "variant": "v7"}
        parsed = parse(index(mediaType=media_type, manifests=[child(1), child(2, platform=arm)]), media_type)
        assert isinstance(parsed, Index)
        assert parsed.media_type == media_type
        assert [one.platform for one in parsed.children] == [
            Platform("linux", "amd64"),
            Platform("linux", "arm", "v7"),
        ]
        assert [one.size for one in parsed.children] == [500, 500]

    def test_knows_its_attestations(self) -> None:
        annotations = {"vnd.docker.reference.type": "attestation-manifest"}
        parsed = parse(index(manifests=[child(1), child(2, annotations=annotations)]), OCI_INDEX)
        assert isinstance(parsed, Index)
        assert [one.attestation for one in parsed.children] == [False, True]

    @pytest.mark.parametrize(
        "platform", [None, "linux/amd64", {}, {"os": "linux"}, {"os": {}, "architecture": 5}, {"os": "a b"}]
    )
    def test_may_have_children_of_unknown_platform(self, platform: object) -> None:
        parsed = parse(index(manifests=[child(1, platform=platform)]), OCI_INDEX)
        assert isinstance(parsed, Index)
        assert parsed.children[0].platform is None

    @pytest.mark.parametrize("said", [OCI_INDEX, "application/json"])
    def test_may_have_no_children(self, said: str) -> None:
        for document in ({**index(), "manifests": None}, index(manifests=[])):
            parsed = parse(document, said)
            assert isinstance(parsed, Index)
            assert parsed.children == ()
        assert isinstance(parse({**without(index(), "mediaType"), "manifests": None}, said), Index)

    def test_may_have_children_with_digests_of_other_algorithms(self) -> None:
        parsed = parse(index(manifests=[child(1, digest=f"sha512:{'a' * 128}"), child(2)]), OCI_INDEX)
        assert isinstance(parsed, Index)
        assert [str(one.digest) for one in parsed.children] == [DIGESTS[2]]

    def test_may_hold_indexes(self) -> None:
        parsed = parse(index(manifests=[child(1, mediaType=OCI_INDEX)]), OCI_INDEX)
        assert isinstance(parsed, Index)
        assert parsed.children[0].media_type == OCI_INDEX


class TestItsMediaType:
    @pytest.mark.parametrize("said", ["", "application/json", "text/plain; charset=utf-8"])
    def test_is_taken_from_its_own_media_type_where_the_header_is_vague(self, said: str) -> None:
        assert isinstance(parse(image(), said), Image)
        assert isinstance(parse(index(), said), Index)

    @pytest.mark.parametrize("said", ["", "application/json", "application/octet-stream"])
    def test_is_derived_from_its_fields_without_a_media_type(self, said: str) -> None:
        untold_image = parse(without(image(), "mediaType"), said)
        untold_index = parse(without(index(), "mediaType"), said)
        assert isinstance(untold_image, Image)
        assert untold_image.media_type == OCI_MANIFEST
        assert isinstance(untold_index, Index)
        assert untold_index.media_type == OCI_INDEX
        assert why_not_document({"schemaVersion": 2}, said) == "it has neither layers nor manifests"

    def test_is_taken_from_the_header_where_it_has_none(self) -> None:
        for document in (without(image(), "mediaType"), image(mediaType=None), image(mediaType="")):
            assert parse(document, OCI_MANIFEST).media_type == OCI_MANIFEST

    def test_does_not_depend_on_parameters_or_case_of_the_header(self) -> None:
        assert isinstance(parse(image(), OCI_MANIFEST.upper() + ' ; charset="utf-8"'), Image)

    def test_is_its_own_between_docker_and_oci(self) -> None:
        assert parse(image(mediaType=DOCKER_MANIFEST), OCI_MANIFEST).media_type == DOCKER_MANIFEST

    def test_must_not_be_an_index_sent_as_an_image_or_the_reverse(self) -> None:
        assert "its Content-Type is" in why_not_document(index(), OCI_MANIFEST)
        assert "its Content-Type is" in why_not_document(image(), DOCKER_LIST)
        assert "its Content-Type is" in why_not_document(image(mediaType="application/x-other"), OCI_MANIFEST)

    def test_must_not_be_ambiguous(self) -> None:
        assert why_not_document(image(manifests=[])) == "an image with manifests"
        assert why_not_document(index(layers=[]), OCI_INDEX) == "an index with layers"
        assert isinstance(parse(image(manifests=None)), Image), "Go writes an empty list as null"
        assert isinstance(parse(index(layers=None, config=None), OCI_INDEX), Index)
        both = without(image(manifests=[child()]), "mediaType")
        assert why_not_document(both, "application/json") == "an index with layers"

    @pytest.mark.parametrize("said", [DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED, "application/json"])
    def test_is_nothing_to_brew_if_it_is_of_schema_1(self, said: str) -> None:
        old = {"schemaVersion": 1, "name": "library/old", "fsLayers": [{"blobSum": DIGESTS[1]}]}
        assert isinstance(parse(old, said), Other)

    def test_is_nothing_to_brew_if_its_kind_is_unknown(self) -> None:
        assert parse({"blobs": []}, "application/vnd.oci.artifact.manifest.v1+json") == Other(
            "application/vnd.oci.artifact.manifest.v1+json"
        )
        assert parse({"mediaType": "application/x-own"}, "application/json") == Other("application/x-own")


def test_a_digest_is_that_of_the_exact_bytes() -> None:
    body = b'{ "schemaVersion": 2 }\n'
    digest = Digest(hashlib.sha256(body).hexdigest())
    assert digest_of(body) == digest
