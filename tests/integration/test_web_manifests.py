"""Augmented manifests of a real registry, and the layers that they queue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.manifests.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from sql.tables import Priority
from sql.transaction import transaction
from tests.notifications import DOCKER_LAYER
from tests.servers.bad_http import replying
from tests.servers.http_server import start_http_server
from tests.servers.push import (
    Descriptor,
    Media,
    image_manifest,
    push_manifest,
)
from tests.servers.registry import Registry
from tests.web_manifests import FIELD, brew, ids, image_of, rbtorrent, sha256, until
from tests.web_parts import NOON, rows
from tests.web_server import Front, front_of
from web.image_lookup import MAX_BYTES


@pytest.fixture
def front(registry: Registry, tmp_path: Path) -> Iterator[Front]:
    with front_of(registry.netloc, tmp_path / "front") as front:
        yield front


@pytest.mark.parametrize("media", ["docker", "oci"])
def test_by_tag_each_brewed_layer_has_its_id_as_the_last_field(
    front: Front, registry: Registry, scope: str, media: Media
) -> None:
    image = image_of(registry, scope, media=media)
    brew(front, image.layers[0], image.layers[2])
    answer = front.get(f"/v2/{scope}/manifests/latest")
    assert answer.status == 200
    expected = json.loads(image.manifest)
    for number in (0, 2):
        expected["layers"][number][FIELD] = rbtorrent(image.layers[number].digest)
    assert json.loads(answer.body) == expected
    assert list(json.loads(answer.body)["layers"][2])[-1] == FIELD
    assert answer.headers["Content-Type"] == image.descriptor.media_type


def test_the_original_example_is_answered_exactly(tmp_path: Path) -> None:
    example = (Path(__file__).parents[1] / "fixtures/manifest.json").read_text().rstrip()
    manifest = json.loads(example)
    found = {layer["digest"]: layer.pop(FIELD) for layer in manifest["layers"]}
    body = json.dumps(manifest, indent=2).encode()
    with start_http_server() as registry, front_of(registry.netloc, tmp_path) as front:
        registry.on("/v2/ubuntu/manifests/precise", replying(200, body, {"Content-Type": DOCKER_MANIFEST}))
        with transaction(front.parts.engine) as connection:
            for digest, rbtorrent_id in found.items():
                row = {"digest": digest, "rbtorrent_id": rbtorrent_id, "added": 1, "brewed": 2}
                connection.execute(sa.insert(front.parts.tables.mapping).values(row))
        answer = front.get(
            "/v2/ubuntu/manifests/precise", X_Real_IP="192.0.2.7", Authorization="OAuth throw-away"
        )
    assert answer.body.decode() == example


def test_an_augmented_answer_names_both_digests(front: Front, registry: Registry, scope: str) -> None:
    image = image_of(registry, scope)
    brew(front, *image.layers)
    answer = front.get(f"/v2/{scope}/manifests/latest")
    assert answer.headers["Docker-Content-Digest"] == sha256(answer.body) != image.digest
    assert answer.headers["Rbtorrent-Image-Digest"] == image.digest
    assert answer.headers["ETag"] == f'"{sha256(answer.body)}"'
    assert answer.headers["Vary"] == "Accept"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    assert answer.headers["Docker-Distribution-Api-Version"] == "registry/2.0"
    assert len(answer.headers.get_all("ETag")) == len(answer.headers.get_all("Docker-Content-Digest")) == 1


def test_a_manifest_without_a_brewed_layer_keeps_its_bytes(
    front: Front, registry: Registry, scope: str
) -> None:
    image = image_of(registry, scope)
    answer = front.get(f"/v2/{scope}/manifests/latest")
    assert answer.body == image.manifest
    assert answer.headers["Docker-Content-Digest"] == image.digest
    assert answer.headers["Rbtorrent-Image-Digest"] == image.digest


@pytest.mark.parametrize("how", ["{etag}", '"other", {etag}', "W/{etag}", "{bare}", "*"])
def test_a_client_with_the_augmented_answer_gets_304(
    front: Front, registry: Registry, scope: str, how: str
) -> None:
    image = image_of(registry, scope)
    brew(front, *image.layers)
    path = f"/v2/{scope}/manifests/latest"
    etag = front.get(path).headers["ETag"] or ""
    answer = front.get(path, If_None_Match=how.format(etag=etag, bare=etag.strip('"')))
    assert (answer.status, answer.body) == (304, b"")
    assert answer.headers["ETag"] == etag
    assert answer.headers["Vary"] == "Accept"
    assert answer.headers["Content-Length"] is None


def test_a_client_with_the_registrys_bytes_still_gets_the_augmented_ones(
    front: Front, registry: Registry, scope: str
) -> None:
    image = image_of(registry, scope)
    brew(front, image.layers[0])
    answer = front.get(f"/v2/{scope}/manifests/latest", If_None_Match=f'"{image.digest}"')
    assert answer.status == 200
    assert ids(answer)[0] == rbtorrent(image.layers[0].digest)


@pytest.mark.parametrize(
    "accept", ["*/*", "application/json", DOCKER_MANIFEST, OCI_MANIFEST, f"*/*, {OCI_INDEX};q=0"]
)
def test_an_accept_without_a_list_yields_ids(
    front: Front, registry: Registry, scope: str, accept: str
) -> None:
    # An OCI image, which the registry hides from clients that accept only docker's: the app accepts all kinds.
    image = image_of(registry, scope, media="oci")
    brew(front, *image.layers)
    assert None not in ids(front.get(f"/v2/{scope}/manifests/latest", Accept=accept))


def test_layers_without_an_id_are_queued_as_requested(front: Front, registry: Registry, scope: str) -> None:
    image = image_of(registry, scope)
    brew(front, image.layers[1])
    parts = front.parts
    for _ in range(3):
        assert ids(front.get(f"/v2/{scope}/manifests/latest"))[1]
    wanted = sorted((layer.digest, layer.size, Priority.ASKED, NOON) for layer in image.layers[::2])
    until(lambda: rows(parts, parts.tables.queue, "digest", "size", "priority", "added") == wanted)
    assert sorted(rows(parts, parts.tables.scope, "digest", "scope")) == sorted(
        (layer.digest, scope) for layer in image.layers[::2]
    )


def test_foreign_and_empty_layers_are_not_queued(tmp_path: Path) -> None:
    kind = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    foreign = Descriptor(kind, "sha256:" + "f" * 64, 7, urls=("https://example.com/layer",))
    empty, usual = Descriptor(kind, sha256(b""), 0), Descriptor(kind, "sha256:" + "1" * 64, 9)
    config = Descriptor("application/vnd.docker.container.image.v1+json", "sha256:" + "c" * 64, 2)
    body = image_manifest(config, [foreign, empty, usual])
    with start_http_server() as registry, front_of(registry.netloc, tmp_path) as front:
        registry.on("/v2/a/manifests/windows", replying(200, body, {"Content-Type": DOCKER_MANIFEST}))
        assert front.get("/v2/a/manifests/windows").body == body
        parts = front.parts
        until(lambda: rows(parts, parts.tables.queue, "digest"))
        assert rows(parts, parts.tables.queue, "digest") == [(usual.digest,)]


def test_a_layer_has_its_id_as_soon_as_it_is_brewed(front: Front, registry: Registry, scope: str) -> None:
    image = image_of(registry, scope)
    assert ids(front.get(f"/v2/{scope}/manifests/latest")) == [None, None, None]
    parts = front.parts
    until(lambda: len(rows(parts, parts.tables.queue, "digest")) == 3)
    mapping = parts.tables.mapping
    with transaction(parts.engine) as connection:
        for layer in image.layers:
            done = {"rbtorrent_id": rbtorrent(layer.digest), "brewed": NOON}
            connection.execute(sa.update(mapping).where(mapping.c.digest == layer.digest).values(done))
    assert None not in ids(front.get(f"/v2/{scope}/manifests/latest"))


def test_an_id_in_a_pushed_manifest_is_removed(front: Front, registry: Registry, scope: str) -> None:
    image = image_of(registry, scope, None)
    manifest = json.loads(image.manifest)
    for layer in manifest["layers"]:
        layer[FIELD] = "rbtorrent:" + "e" * 40
    push_manifest(registry, scope, "forged", json.dumps(manifest).encode(), DOCKER_MANIFEST)
    brew(front, image.layers[0])
    assert ids(front.get(f"/v2/{scope}/manifests/forged")) == [
        rbtorrent(image.layers[0].digest),
        None,
        None,
    ]


@pytest.mark.parametrize(("layers", "augmented"), [(1_000, True), (1_001, False), (12_000, False)])
def test_an_image_of_thousands_of_layers_is_passed_on_without_ids(
    tmp_path: Path, layers: int, augmented: bool
) -> None:
    descriptors = [Descriptor(DOCKER_LAYER, f"sha256:{number:064x}", 1) for number in range(layers)]
    body = image_manifest(descriptors[0], descriptors)
    with start_http_server() as registry, front_of(registry.netloc, tmp_path) as front:
        registry.on("/v2/a/manifests/large", replying(200, body, {"Content-Type": DOCKER_MANIFEST}))
        brew(front, descriptors[-1])
        answer = front.get("/v2/a/manifests/large")
        assert (answer.status, answer.body == body) == (200, not augmented)


@pytest.mark.parametrize("large", ["digests with an escaped letter", "annotations"])
def test_a_manifest_that_hides_its_size_is_passed_on_without_ids(tmp_path: Path, large: str) -> None:
    descriptors = [Descriptor(DOCKER_LAYER, f"sha256:{number:064x}", 1) for number in range(2_000)]
    body = image_manifest(descriptors[0], descriptors).replace(b'"digest"', rb'"\u0064igest"')
    if large == "annotations":
        manifest = json.loads(image_manifest(descriptors[0], descriptors[-1:]))
        body = json.dumps({**manifest, "annotations": {"a": "x" * MAX_BYTES}}).encode()
    with start_http_server() as registry, front_of(registry.netloc, tmp_path) as front:
        registry.on("/v2/a/manifests/large", replying(200, body, {"Content-Type": DOCKER_MANIFEST}))
        brew(front, descriptors[-1])
        assert front.get("/v2/a/manifests/large").body == body
