"""Manifests that are refused as a whole."""

from __future__ import annotations

import json

import pytest

from core.errors import ManifestInvalid
from core.manifests.manifest import Image, parse_manifest
from core.manifests.media_types import OCI_INDEX, OCI_MANIFEST
from tests.manifests import child, image, index, layer, without


def why_not(body: bytes, content_type: str = OCI_MANIFEST) -> str:
    with pytest.raises(ManifestInvalid) as caught:
        parse_manifest(body, content_type)
    return caught.value.why


def why_not_document(document: object, content_type: str = OCI_MANIFEST) -> str:
    return why_not(json.dumps(document).encode(), content_type)


class TestAManifestIsInvalid:
    @pytest.mark.parametrize(
        "digest",
        [
            "../../etc",
            "sha256:../../etc/passwd",
            "sha256:" + "A" * 64,
            "sha256:" + "a" * 63,
            "sha256:" + "a" * 64 + "\n",
            "sha512:" + "a" * 31,
            "SHA512:" + "a" * 128,
            "a" * 64,
            "",
            5,
            None,
            ["sha256:" + "a" * 64],
        ],
    )
    def test_where_one_digest_is_invalid(self, digest: object) -> None:
        assert "digest" in why_not_document(image(layers=[layer(1), layer(2, digest=digest)]))
        assert "digest" in why_not_document(image(config=layer(0, digest=digest)))
        assert "digest" in why_not_document(index(manifests=[child(1, digest=digest)]), OCI_INDEX)

    @pytest.mark.parametrize("size", [-1, 2**63, 10**300, 1.5, 1.0, 1e9, True, False, "5", None, [], {}])
    def test_where_one_size_is_invalid(self, size: object) -> None:
        why = "layers[1].size is not a number of bytes"
        assert why_not_document(image(layers=[layer(1), layer(2, size=size)])) == why

    @pytest.mark.parametrize("field", ["digest", "size", "mediaType"])
    def test_where_a_descriptor_lacks_a_field(self, field: str) -> None:
        assert f"layers[0].{field}" in why_not_document(image(layers=[without(layer(), field)]))
        assert f"manifests[0].{field}" in why_not_document(
            index(manifests=[without(child(), field)]), OCI_INDEX
        )

    @pytest.mark.parametrize("field", ["config", "schemaVersion"])
    def test_where_the_image_lacks_a_field(self, field: str) -> None:
        assert field in why_not_document(without(image(), field))

    @pytest.mark.parametrize("version", [None, 1, 3, "2", 2.0, True])
    def test_where_the_schema_version_is_another(self, version: object) -> None:
        assert why_not_document(image(schemaVersion=version)) == "schemaVersion is not 2"

    @pytest.mark.parametrize("layers", [{}, "layers", 5, [None], ["sha256:"], [[layer()]], [5]])
    def test_where_the_layers_are_invalid(self, layers: object) -> None:
        assert "layers" in why_not_document(image(layers=layers))

    @pytest.mark.parametrize("media_type", [5, [], {}, "a" * 300, "a\nb", "\ud800"])
    def test_where_a_media_type_is_invalid(self, media_type: object) -> None:
        assert "mediaType" in why_not_document(image(mediaType=media_type))
        assert "mediaType" in why_not_document(image(layers=[layer(mediaType=media_type)]))

    def test_where_urls_are_not_a_list(self) -> None:
        assert why_not_document(image(layers=[layer(urls="https://example.com")])) == (
            "layers[0].urls is not a list"
        )

    def test_where_one_layer_has_two_sizes(self) -> None:
        assert why_not_document(image(layers=[layer(1), layer(1, size=5)])) == (
            "layers[1] was listed before with another size"
        )

    @pytest.mark.parametrize("document", [None, 5, "text", [], [image()], True])
    def test_where_it_is_not_an_object(self, document: object) -> None:
        assert why_not_document(document) == "not a JSON object"

    def test_where_it_is_not_json(self) -> None:
        assert why_not(b"<html>").startswith("not JSON")
        assert why_not(b"").startswith("not JSON")
        assert why_not(json.dumps(image()).encode()[:-1]).startswith("not JSON")
        assert why_not(b"\xff\xfe{}") == "not UTF-8"
        assert why_not(json.dumps(image()).encode("utf-16")) == "not UTF-8"
        assert why_not(b"\xef\xbb\xbf" + json.dumps(image()).encode()).startswith("not JSON")

    @pytest.mark.parametrize("constant", [b"NaN", b"Infinity", b"-Infinity"])
    def test_where_a_number_is_invalid(self, constant: bytes) -> None:
        assert (
            why_not(b'{"schemaVersion": 2, "size": ' + constant + b"}") == f"{constant.decode()} is not JSON"
        )

    def test_where_a_number_has_thousands_of_digits(self) -> None:
        assert why_not(b'{"schemaVersion": ' + b"9" * 5000 + b"}") == "not JSON: a number too long"

    @pytest.mark.parametrize("opening", [b"[", b'{"a":'])
    def test_where_it_is_nested_too_deep(self, opening: bytes) -> None:
        assert why_not(opening * 200_000) == "nested too deeply"

    def test_where_a_key_is_repeated(self) -> None:
        twice = json.dumps(image())[:-1] + ', "layers": []}'
        assert why_not(twice.encode()) == "a key appears twice in one object"

    @pytest.mark.parametrize(
        "field",
        [
            "Layers",
            "LAYERS",
            "layer\u017f",
            "Config",
            "MEDIATYPE",
            "schemaVer\u017fion",
            "Manifest\u017f",
            "fslayers",
        ],
    )
    def test_where_a_field_is_spelled_in_a_way_that_go_accepts(self, field: str) -> None:
        assert "only in its letters" in why_not_document(image(**{field: []}))
        assert "only in its letters" in why_not_document(index(**{field: []}), OCI_INDEX)

    @pytest.mark.parametrize(
        "field", ["Digest", "DIGEST", "Size", "\u017fize", "Urls", "url\u017f", "mediatype"]
    )
    def test_where_a_field_of_a_descriptor_is_spelled_in_a_way_that_go_accepts(self, field: str) -> None:
        assert "only in its letters" in why_not_document(image(layers=[layer(1), layer(2, **{field: 5})]))
        assert "only in its letters" in why_not_document(image(config=layer(0, **{field: 5})))
        assert "only in its letters" in why_not_document(index(manifests=[child(1, **{field: 5})]), OCI_INDEX)

    @pytest.mark.parametrize("field", ["Platform", "Annotations", "annotation\u017f"])
    def test_where_a_field_of_a_child_is_spelled_in_a_way_that_go_accepts(self, field: str) -> None:
        assert "only in its letters" in why_not_document(
            index(manifests=[child(1, **{field: {}})]), OCI_INDEX
        )

    @pytest.mark.parametrize("field", ["OS", "o\u017f", "Architecture", "Variant"])
    def test_where_a_field_of_a_platform_is_spelled_in_a_way_that_go_accepts(self, field: str) -> None:
        platform = {"os": "linux", "architecture": "amd64", field: "arm64"}
        assert "only in its letters" in why_not_document(
            index(manifests=[child(1, platform=platform)]), OCI_INDEX
        )


@pytest.mark.parametrize("field", ["Note", "\u212aind", "layer", "Labels", "ß"])
def test_unused_fields_may_have_any_spelling(field: str) -> None:
    annotations = {"Digest": "text", "Size": "text"}
    document = image(**{field: 1}, layers=[layer(1, **{field: 1}, annotations=annotations)])
    assert isinstance(parse_manifest(json.dumps(document).encode(), OCI_MANIFEST), Image)
