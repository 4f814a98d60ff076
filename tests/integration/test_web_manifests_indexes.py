"""Manifest lists and image indexes: the image for the platform is returned."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.manifests.media_types import OCI_INDEX
from tests.servers.http_server import Answer, Connection, Request, start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.push import (
    Media,
    PushedImage,
    push_image,
    push_index,
    push_manifest,
)
from tests.servers.registry import Registry
from tests.web_manifests import ENGINE, assert_untouched, brew, code_of, ids, image_of, rbtorrent, sha256
from tests.web_server import Front, front_of


@pytest.fixture
def front(registry: Registry, tmp_path: Path) -> Iterator[Front]:
    with front_of(registry.netloc, tmp_path / "front") as front:
        yield front


def index_of(
    registry: Registry, scope: str, media: Media, **more: Any
) -> tuple[PushedImage, PushedImage, Any]:
    amd64 = push_image(registry, scope, None, [layer_bytes(2000, 11)], media=media)
    arm64 = push_image(registry, scope, None, [layer_bytes(2000, 12)], media=media, platform="linux/arm64/v8")
    children = [arm64.descriptor, amd64.descriptor]
    return amd64, arm64, push_index(registry, scope, "multi", children, media=media, **more)


@pytest.mark.parametrize("media", ["docker", "oci"])
def test_the_image_for_the_platform_is_returned(
    front: Front, registry: Registry, scope: str, media: Media
) -> None:
    amd64, arm64, _ = index_of(registry, scope, media)
    brew(front, *amd64.layers, *arm64.layers)
    for query, image in [("", amd64), ("?platform=linux/arm64", arm64), ("?platform=linux/arm64/v8", arm64)]:
        answer = front.get(f"/v2/{scope}/manifests/multi{query}")
        assert ids(answer) == [rbtorrent(image.layers[0].digest)]
        assert answer.headers["Rbtorrent-Image-Digest"] == image.digest
        assert answer.headers["Docker-Content-Digest"] == sha256(answer.body)
        assert answer.headers["Content-Type"] == image.descriptor.media_type


def test_an_index_without_the_platform_is_404(front: Front, registry: Registry, scope: str) -> None:
    index_of(registry, scope, "oci")
    answer = front.get(f"/v2/{scope}/manifests/multi?platform=linux/riscv64")
    assert answer.status == 404
    assert json.loads(answer.body)["errors"][0]["code"] == "MANIFEST_UNKNOWN"
    assert front.get(f"/v2/{scope}/manifests/multi?platform=..").status == 400


def test_an_engine_gets_the_index_itself(front: Front, registry: Registry, scope: str) -> None:
    index_of(registry, scope, "oci")
    path = f"/v2/{scope}/manifests/multi"
    answer = front.get(path, Accept=ENGINE)
    assert_untouched(answer, registry, "GET", path, varies=True, Accept=ENGINE)


def test_an_image_is_found_in_an_index_within_an_index(front: Front, registry: Registry, scope: str) -> None:
    amd64, _, inner = index_of(registry, scope, "oci")
    push_index(registry, scope, "outer", [inner.descriptor], media="oci")
    brew(front, *amd64.layers)
    answer = front.get(f"/v2/{scope}/manifests/outer")
    assert answer.headers["Rbtorrent-Image-Digest"] == amd64.digest
    assert ids(answer) == [rbtorrent(amd64.layers[0].digest)]


def test_an_attestation_in_an_index_is_not_an_image(front: Front, registry: Registry, scope: str) -> None:
    image = image_of(registry, scope, None, media="oci")
    attestation = push_image(registry, scope, None, [b"{}"], media="oci", platform="unknown/unknown")
    entry = attestation.descriptor.as_json()
    entry["annotations"] = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": image.digest,
    }
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [entry, image.descriptor.as_json()],
    }
    push_manifest(registry, scope, "attested", json.dumps(body).encode(), OCI_INDEX)
    brew(front, *image.layers)
    assert front.get(f"/v2/{scope}/manifests/attested").headers["Rbtorrent-Image-Digest"] == image.digest
    other = front.get(f"/v2/{scope}/manifests/attested?platform=unknown/unknown")
    assert other.status == 404


def test_reading_many_manifests_has_the_time_out_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monotonic, passed = time.monotonic, [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + passed[0])

    def slow(body: bytes) -> Answer:
        def answer(request: Request, connection: Connection) -> None:
            passed[0] += 50
            connection.reply(200, body, {"Content-Type": OCI_INDEX})

        return answer

    def index(number: int, *children: str) -> bytes:
        entries = [{"mediaType": OCI_INDEX, "size": 9, "digest": digest} for digest in children]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries, "number": number}
        return json.dumps(document).encode()

    settings = {"docker_registry": {"connect_timeout": 60.0, "read_timeout": 60.0}}
    with (
        start_http_server() as registry,
        front_of(registry.netloc, tmp_path, settings=settings) as front,
    ):
        below = [index(number) for number in range(7)]
        for body in below:
            registry.on(f"/v2/a/manifests/{sha256(body)}", slow(body))
        registry.on("/v2/a/manifests/b", slow(index(7, *map(sha256, below))))
        answer = front.get("/v2/a/manifests/b")
        assert (answer.status, code_of(answer)) == (504, "UNAVAILABLE")
        assert len(registry.requests) == 3
