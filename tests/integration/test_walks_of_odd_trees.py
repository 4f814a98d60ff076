"""Walks of unusual trees: caches, broken manifests, deep and incomplete trees."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import requests

from core.manifests.media_types import DOCKER_MANIFEST, OCI_INDEX
from jobs.repository_scan import Scan
from jobs.walk_repositories import CatalogMatches, fail_unmatched, walk_repositories
from tests.scanning import queued, start_scan
from tests.servers.layers import layer_bytes
from tests.servers.push import push_blob, push_image, push_manifest
from tests.servers.registry import Registry, start_registry


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with start_registry(tmp_path_factory.mktemp("odd"), delete=True) as server:
        yield server


@pytest.fixture
def scan(database_url: str, registry: Registry) -> Iterator[Scan]:
    with start_scan(database_url, registry.netloc) as scan:
        yield scan


def push_index_of(
    registry: Registry, scope: str, tag: str | None, children: list[dict[str, object]]
) -> dict[str, object]:
    """Push an index of `children`, and return its descriptor."""
    body = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children, "annotations": {"tag": tag}}
    ).encode()
    return {
        "mediaType": OCI_INDEX,
        "size": len(body),
        "digest": push_manifest(registry, scope, tag, body, OCI_INDEX),
    }


def break_manifest(registry: Registry, digest: str) -> None:
    """Empty a manifest's file, as a power cut does: the registry answers 500 for it."""
    registry.blob_file(digest).write_bytes(b"")


def test_the_cache_of_buildkit_counts_as_read_and_hides_no_image(
    scan: Scan, registry: Registry, scope: str
) -> None:
    blob = push_blob(registry, scope, layer_bytes(300, 1))
    layer: dict[str, object] = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "size": 300,
        "digest": blob.digest,
    }
    config = {**layer, "mediaType": "application/vnd.buildkit.cacheconfig.v0"}
    for number in range(8):
        push_index_of(registry, scope, f"a-cache-{number}", [layer, config])
    image = push_image(registry, scope, "v1", [layer_bytes(500, 2)])

    summary = walk_repositories(scan, [scope], "test")

    assert (summary.failed, summary.tags) == (0, 9)
    assert set(queued(scan)) == {image.layers[0].digest}
    assert walk_repositories(scan, [scope], "test").unchanged == 9


def test_a_broken_manifest_does_not_affect_others(scan: Scan, registry: Registry, scope: str) -> None:
    for number in range(12):
        image = push_image(registry, scope, f"a{number:02}", [layer_bytes(500, 100 + number)], media="oci")
        break_manifest(registry, image.digest)
    good = push_image(registry, scope, "good", [layer_bytes(500, 99)], media="oci")

    summary = walk_repositories(scan, [scope], "test")

    assert (summary.failed, summary.tags) == (12, 13)
    assert set(queued(scan)) == {good.layers[0].digest}


def test_a_broken_child_does_not_affect_others_and_the_index_is_read_again(
    scan: Scan, registry: Registry, scope: str
) -> None:
    images = [push_image(registry, scope, None, [layer_bytes(500, number)], media="oci") for number in (1, 2)]
    push_index_of(registry, scope, "v1", [image.descriptor.as_json() for image in images])
    file = registry.blob_file(images[0].digest)
    content = file.read_bytes()
    file.write_bytes(b"")

    assert walk_repositories(scan, [scope], "test").failed == 1
    assert set(queued(scan)) == {images[1].layers[0].digest}

    file.write_bytes(content)
    assert walk_repositories(scan, [scope], "test").failed == 0
    assert set(queued(scan)) == {image.layers[0].digest for image in images}


def test_an_index_is_read_again_while_any_image_below_it_is_missing(
    scan: Scan, registry: Registry, scope: str
) -> None:
    image = push_image(registry, scope, None, [layer_bytes(500, 5)], media="oci")
    leaf = image.descriptor.as_json()
    inner = [push_index_of(registry, scope, tag, [leaf]) for tag in ("a", "b")]
    push_index_of(registry, scope, "top", inner)
    requests.delete(f"{registry.url}/v2/{scope}/manifests/{image.digest}", timeout=60).raise_for_status()
    assert walk_repositories(scan, [scope], "test").queued == 0

    push_manifest(registry, scope, None, image.manifest, str(leaf["mediaType"]))

    assert walk_repositories(scan, [scope], "test").queued == 1


def test_each_manifest_of_a_tree_is_requested_once(scan: Scan, registry: Registry, scope: str) -> None:
    image = push_image(registry, scope, None, [layer_bytes(500, 6)])
    layer = image.layers[0].as_json()
    # The registry accepts it; here it is refused (two spellings of one field), and so it is never "seen".
    body = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": DOCKER_MANIFEST,
            "config": image.config.as_json(),
            "layers": [layer],
            "Layers": [layer],
        }
    ).encode()
    digest = push_manifest(registry, scope, None, body, DOCKER_MANIFEST)
    below: list[dict[str, object]] = [{"mediaType": DOCKER_MANIFEST, "size": len(body), "digest": digest}]
    width = 6
    for level in range(3):
        below = [
            push_index_of(
                registry, scope, None if level < 2 else f"top-{number}", [*below, *_pad(below, number)]
            )
            for number in range(width)
        ]
    before = len(registry.requests())

    walk_repositories(scan, [scope], "test")

    gets = [
        path for method, path, _ in registry.requests()[before:] if method == "GET" and "/manifests/" in path
    ]
    assert len(gets) == len(set(gets)) == 1 + 3 * width


def _pad(below: list[dict[str, object]], number: int) -> list[dict[str, object]]:
    """Make indexes of the same children differ: name the first one `number` times more."""
    return [below[0]] * number


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_limit_is_kept_within_an_image_and_the_next_run_continues(
    scan: Scan, registry: Registry, scope: str, *, dry_run: bool
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(500, number) for number in range(5)])

    first = walk_repositories(replace(scan, limit=2, dry_run=dry_run), [scope], "test")

    assert first.queued == 2
    if not dry_run:
        assert len(queued(scan)) == 2
        assert walk_repositories(scan, [scope], "test").queued == 3


def test_an_image_without_layers_counts_as_read(scan: Scan, registry: Registry, scope: str) -> None:
    image = push_image(registry, scope, None, [layer_bytes(500, 7)], media="oci")
    for tag, layers in (("absent", {}), ("null", {"layers": None}), ("empty", {"layers": []})):
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": image.config.as_json(),
            **layers,
        }
        push_manifest(registry, scope, tag, json.dumps(document).encode(), str(document["mediaType"]))

    summary = walk_repositories(scan, [scope], "test")

    assert (summary.failed, summary.queued) == (0, 0)
    assert walk_repositories(scan, [scope], "test").unchanged == 3


def test_a_glob_that_matches_no_repository_is_a_failure(scan: Scan, registry: Registry, scope: str) -> None:
    push_image(registry, f"{scope}/a", "v1", [layer_bytes(500, 8)])
    matches = CatalogMatches(scan.registry, [f"{scope}/*", f"{scope}-none/*"])
    summary = walk_repositories(scan, matches, "test")
    fail_unmatched(summary, matches)
    assert (summary.repositories, summary.failed) == (1, 1)
