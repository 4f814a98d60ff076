"""Manifests pushed to a real registry to gain access to layers or nodes of others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core.manifests.media_types import DOCKER_MANIFEST
from tests.servers.layers import layer_bytes
from tests.servers.push import (
    MANIFEST,
    Descriptor,
    Media,
    PushedImage,
    image_manifest,
    push_blob,
    push_image,
    push_manifest,
)
from tests.servers.registry import Registry, start_registry
from tests.web_manifests import FIELD, brew, code_of, ids, image_of, rbtorrent, until
from tests.web_parts import rows
from tests.web_server import Front, front_of

PUSHED = "rbtorrent:" + "e" * 40


@pytest.fixture
def front(registry: Registry, tmp_path: Path) -> Iterator[Front]:
    with front_of(registry.netloc, tmp_path / "front") as front:
        yield front


def queued(front: Front) -> list[tuple[Any, ...]]:
    """Return the queue once all requested layers are in it."""
    front.app.close()
    return rows(front.parts, front.parts.tables.scope, "digest", "scope")


def push(registry: Registry, image: PushedImage, media: Media, text: str) -> bytes:
    body = text.encode()
    push_manifest(registry, image.scope, "evil", body, MANIFEST[media])
    return body


@pytest.mark.parametrize("media", ["docker", "oci"])
@pytest.mark.parametrize("field", ["Layers", "LAYERS", "layer\u017f"])
@pytest.mark.parametrize("brewed", [True, False])
def test_layers_that_the_registry_did_not_check_get_no_id(
    front: Front, registry: Registry, scope: str, media: Media, field: str, brewed: bool
) -> None:
    secret = push_image(registry, f"{scope}/secret", "latest", [layer_bytes(3000, 7)], media=media)
    mine = push_image(registry, f"{scope}/mine", "latest", [layer_bytes(2000, 8)], media=media)
    document = json.loads(mine.manifest)
    document[field] = document["layers"]
    document["layers"] = [secret.layers[0].as_json()]
    # The registry accepts it: it has checked the last one.
    body = push(registry, mine, media, json.dumps(document, ensure_ascii=False))
    if brewed:
        brew(front, *secret.layers, *mine.layers)
    answer = front.get(f"/v2/{mine.scope}/manifests/evil")
    assert (answer.status, answer.body) == (200, body)
    assert queued(front) == []


@pytest.mark.parametrize("field", ["Digest", "digeSt"])
def test_a_digest_that_the_registry_did_not_check_gets_no_id(
    front: Front, registry: Registry, scope: str, field: str
) -> None:
    secret = push_image(registry, f"{scope}/secret", "latest", [layer_bytes(3000, 7)])
    mine = push_image(registry, f"{scope}/mine", "latest", [layer_bytes(2000, 8)])
    document = json.loads(mine.manifest)
    document["layers"] = [{**secret.layers[0].as_json(), field: mine.layers[0].digest}]
    body = push(registry, mine, "docker", json.dumps(document))
    brew(front, *secret.layers)
    answer = front.get(f"/v2/{mine.scope}/manifests/evil")
    assert (answer.status, answer.body) == (200, body)
    assert queued(front) == []


def spoiled(image: PushedImage, more: str, field: str = FIELD) -> str:
    """Return the image's manifest with an id on its first layer, and `more` at its end."""
    document = json.loads(image.manifest)
    document["layers"][0]["pushed"] = PUSHED
    return json.dumps(document)[:-1].replace('"pushed"', f'"{field}"') + f", {more}}}"


@pytest.mark.parametrize(
    "more",
    [
        '"x": 1e999',
        '"x": "\\ud800"',
        '"x": 1, "x": 2',
        f'"MediaType": "{DOCKER_MANIFEST}"',
        '"x": ' + "[" * 5000 + "]" * 5000,
    ],
)
@pytest.mark.parametrize("field", [FIELD, "\\u0072btorrent_id", "RBTORRENT_ID"])
def test_a_pushed_id_that_cannot_be_removed_is_refused(
    front: Front, registry: Registry, scope: str, more: str, field: str
) -> None:
    image = image_of(registry, scope)
    body = push(registry, image, "docker", spoiled(image, more, field))
    answer = front.get(f"/v2/{scope}/manifests/evil")
    assert (answer.status, code_of(answer)) == (502, "UNAVAILABLE")
    assert PUSHED.encode() not in answer.body
    # Clients that want no ids ignore them.
    assert front.get(f"/v2/{scope}/manifests/evil?rbtorrent=false", Accept=DOCKER_MANIFEST).body == body


def test_the_same_manifest_without_an_id_is_unchanged(front: Front, registry: Registry, scope: str) -> None:
    image = image_of(registry, scope)
    body = push(registry, image, "docker", spoiled(image, '"x": 1e999', "note"))
    brew(front, *image.layers)
    answer = front.get(f"/v2/{scope}/manifests/evil")
    assert (answer.status, answer.body) == (200, body)


def test_a_foreign_layer_gets_no_id_and_is_not_queued(
    tmp_path: Path, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REGISTRY_VALIDATION_MANIFESTS_URLS_ALLOW", '["^https?://.*"]')
    with start_registry(tmp_path) as registry, front_of(registry.netloc, tmp_path / "front") as front:
        secret = push_image(registry, f"{scope}/secret", "latest", [layer_bytes(3000, 7)])
        mine = push_image(registry, f"{scope}/mine", "latest", [layer_bytes(2000, 8)])
        kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
        foreign = [
            Descriptor(kind, layer.digest, layer.size, urls=("https://example.com/layer",))
            for layer in (secret.layers[0], Descriptor(kind, "sha256:" + "d" * 64, 5))
        ]
        body = image_manifest(mine.config, [*foreign, *mine.layers])
        push_manifest(registry, mine.scope, "foreign", body, DOCKER_MANIFEST)
        brew(front, *secret.layers, *mine.layers)
        answer = front.get(f"/v2/{mine.scope}/manifests/foreign")
        assert ids(answer) == [None, None, rbtorrent(mine.layers[0].digest)]
        assert queued(front) == []


def test_the_statement_of_an_attestation_is_not_queued(front: Front, registry: Registry, scope: str) -> None:
    image = push_image(registry, scope, None, [layer_bytes(2000, 8)], media="oci")
    statement = push_blob(
        registry,
        scope,
        b'{"_type": "https://in-toto.io/Statement/v0.1"}',
        media_type="application/vnd.in-toto+json",
    )
    body = image_manifest(image.config, [statement, *image.layers], media="oci")
    digest = push_manifest(registry, scope, None, body, MANIFEST["oci"])
    assert front.get(f"/v2/{scope}/manifests/{digest}?rbtorrent=true").body == body
    until(lambda: rows(front.parts, front.parts.tables.scope, "digest"))
    assert queued(front) == [(image.layers[0].digest, scope)]
