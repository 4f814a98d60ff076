"""Scans and backfills queue the layers of a registry, with few requests the second time, despite failures."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
import requests

from core.manifests.media_types import DOCKER_MANIFEST, OCI_INDEX
from core.manifests.platform import Platform
from jobs.repository_scan import Scan
from jobs.scan_tags import scan_tags
from jobs.summary import was_paused
from jobs.walk_repositories import CatalogMatches, exact_names, walk_repositories
from sql.tables import Priority
from tests.scanning import client, grant, image, manifest_of, queued, start_scan
from tests.servers.bad_http import replying
from tests.servers.http_server import Connection, HttpServer, Request, start_http_server
from tests.servers.layers import digest_of, layer_bytes
from tests.servers.push import Descriptor, push_image, push_index, push_manifest
from tests.servers.registry import Registry, start_registry


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for this file only, so that its catalog has nothing else."""
    with start_registry(tmp_path_factory.mktemp("shelf"), delete=True) as server:
        yield server


@pytest.fixture
def scan(database_url: str, shelf: Registry) -> Iterator[Scan]:
    with start_scan(database_url, shelf.netloc) as scan:
        yield scan


def asked(registry: Registry, before: int = 0) -> list[tuple[str, str]]:
    return [(method, path) for method, path, _ in registry.requests()[before:]]


def test_scopes_with_the_role_are_scanned_and_no_others(scan: Scan, shelf: Registry, scope: str) -> None:
    mine = push_image(shelf, f"{scope}/mine", "v1", [layer_bytes(500, 1)])
    globbed = push_image(shelf, f"{scope}/team/a/b", "v1", [layer_bytes(500, 2)])
    push_image(shelf, f"{scope}/other", "v1", [layer_bytes(500, 3)])
    grant(scan, f"{scope}/mine", f"{scope}/team/*")

    summary = scan_tags(scan)

    assert queued(scan) == {
        mine.layers[0].digest: Priority.SCANNED,
        globbed.layers[0].digest: Priority.SCANNED,
    }
    assert (summary.repositories, summary.queued, summary.failed) == (2, 2, 0)


def test_without_a_role_the_registry_gets_no_request(scan: Scan, shelf: Registry) -> None:
    before = len(shelf.requests())

    assert scan_tags(scan).repositories == 0
    assert asked(shelf, before) == []


def test_a_second_scan_costs_one_head_per_tag(scan: Scan, shelf: Registry, scope: str) -> None:
    for number in range(5):
        push_image(shelf, scope, f"v{number}", [layer_bytes(500, 10), layer_bytes(500, 20 + number)])
    push_image(shelf, scope, "same-as-v0", [layer_bytes(500, 10), layer_bytes(500, 20)])
    grant(scan, scope)
    assert scan_tags(scan).queued == 6
    before = len(shelf.requests())

    summary = scan_tags(scan)

    assert (summary.tags, summary.unchanged, summary.queued) == (6, 6, 0)
    methods = [method for method, _ in asked(shelf, before)]
    assert sorted(methods) == ["GET", *["HEAD"] * 6]


def test_a_moved_tag_is_read_again_and_its_old_layers_are_not_queued_twice(
    scan: Scan, shelf: Registry, scope: str
) -> None:
    push_image(shelf, scope, "latest", [layer_bytes(500, 30)])
    grant(scan, scope)
    scan_tags(scan)
    push_image(shelf, scope, "latest", [layer_bytes(500, 30), layer_bytes(500, 31)])

    summary = scan_tags(scan)

    assert summary.queued == 1


def test_only_the_configured_platforms_of_an_index_are_read(scan: Scan, shelf: Registry, scope: str) -> None:
    amd64 = push_image(shelf, scope, None, [layer_bytes(500, 40)], media="oci", platform="linux/amd64")
    arm64 = push_image(shelf, scope, None, [layer_bytes(500, 41)], media="oci", platform="linux/arm64")
    push_index(shelf, scope, "v1", [amd64.descriptor, arm64.descriptor], media="oci")
    grant(scan, scope)
    limited = replace(scan, platforms=(Platform("linux", "amd64"),))

    assert scan_tags(limited).queued == 1
    assert set(queued(scan)) == {amd64.layers[0].digest}
    assert scan_tags(limited).unchanged == 1

    assert scan_tags(scan).queued == 1
    assert set(queued(scan)) == {amd64.layers[0].digest, arm64.layers[0].digest}


def test_other_children_of_an_incomplete_index_are_queued_and_it_is_read_again(
    scan: Scan, shelf: Registry, scope: str
) -> None:
    there = push_image(shelf, scope, None, [layer_bytes(500, 50)], media="oci")
    gone = push_image(shelf, scope, None, [layer_bytes(500, 51)], media="oci", platform="linux/arm64")
    push_index(shelf, scope, "v1", [there.descriptor, gone.descriptor], media="oci")
    deleted = requests.delete(f"{shelf.url}/v2/{scope}/manifests/{gone.digest}", timeout=60)
    assert deleted.status_code == 202
    grant(scan, scope)

    summary = scan_tags(scan)

    assert (summary.queued, summary.failed) == (1, 0)
    push_manifest(shelf, scope, None, gone.manifest, gone.descriptor.media_type)
    assert scan_tags(scan).queued == 1


def test_an_index_with_a_child_that_is_not_a_manifest_yields_the_others(
    scan: Scan, stand_in: HttpServer
) -> None:
    broken = b'{"schemaVersion": 2, "layers": [{"digest": "../../etc"}]}'
    children = [
        {"mediaType": DOCKER_MANIFEST, "digest": digest_of(body), "size": len(body)}
        for body in (broken, manifest_of(5))
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children}).encode()
    index_headers = {"Content-Type": OCI_INDEX, "Docker-Content-Digest": digest_of(index)}
    stand_in.on("/v2/odd/tags/list*", replying(200, b'{"name":"odd","tags":["v1"]}'))
    for name, body, headers in (
        ("v1", index, index_headers),
        (digest_of(index), index, index_headers),
        (digest_of(broken), broken, {"Content-Type": DOCKER_MANIFEST}),
        (digest_of(manifest_of(5)), manifest_of(5), {"Content-Type": DOCKER_MANIFEST}),
    ):
        stand_in.on(f"/v2/odd/manifests/{name}", replying(200, body, headers))

    walk_repositories(replace(scan, registry=client(stand_in.netloc)), ["odd"], "test")

    assert set(queued(scan)) == {f"sha256:{5:064x}"}


def test_an_index_of_indexes_is_followed(scan: Scan, shelf: Registry, scope: str) -> None:
    image = push_image(shelf, scope, None, [layer_bytes(500, 60)], media="oci")
    inner = push_index(shelf, scope, None, [image.descriptor], media="oci")
    push_index(shelf, scope, "v1", [Descriptor(OCI_INDEX, inner.digest, inner.descriptor.size)], media="oci")
    grant(scan, scope)

    assert scan_tags(scan).queued == 1


def test_two_scans_at_once_queue_everything_once(scan: Scan, shelf: Registry, scope: str) -> None:
    digests = set()
    for number in range(10):
        image = push_image(shelf, scope, f"v{number}", [layer_bytes(500, 70 + number), layer_bytes(500, 7)])
        digests |= {layer.digest for layer in image.layers}
    grant(scan, scope)

    runs = [threading.Thread(target=scan_tags, args=(scan,)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()

    assert set(queued(scan)) == digests


def test_a_walk_stops_at_its_limit_and_resumes_there(scan: Scan, shelf: Registry, scope: str) -> None:
    for number in range(10):
        push_image(shelf, scope, f"v{number}", [layer_bytes(500, 90 + number)])

    first = walk_repositories(replace(scan, limit=4), [scope], "test")
    second = walk_repositories(replace(scan, limit=100), [scope], "test")

    assert (first.queued, second.queued) == (4, 6)


def test_a_stopped_walk_is_reported(scan: Scan, shelf: Registry, scope: str) -> None:
    push_image(shelf, scope, "v1", [layer_bytes(500, 110)])
    scan.service.stop.set()

    summary = walk_repositories(scan, [scope], "test")

    assert summary.interrupted
    assert str(summary).endswith("interrupted: run it again to continue")
    assert queued(scan) == {}


@pytest.fixture
def stand_in() -> Iterator[HttpServer]:
    """A stand-in for a registry."""
    with start_http_server() as server:
        yield server


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_forbidden_catalog_is_reported_and_exact_names_still_work(
    scan: Scan, stand_in: HttpServer, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    stand_in.on("/v2/_catalog*", replying(status, b'{"errors":[]}'))
    stand_in.on("/v2/exact/name/tags/list*", replying(200, b'{"name":"exact/name","tags":["v1"]}'))
    stand_in.on("/v2/exact/name/manifests/*", image(1))
    grant(scan, "exact/name", "glob/*")

    summary = scan_tags(replace(scan, registry=client(stand_in.netloc)))

    assert (summary.queued, summary.failed, was_paused(summary)) == (1, 1, False)
    assert "only exact names can be walked" in caplog.text
    assert str(status) in caplog.text or status == 404

    stand_in.on("/v2/exact/name/manifests/*", image(2))
    assert scan_tags(replace(scan, registry=client(stand_in.netloc))).queued == 1
    again = scan_tags(replace(scan, registry=client(stand_in.netloc)))
    assert (again.repositories, again.failed) == (1, 1)


def test_exact_names_are_scanned_after_the_catalog_becomes_forbidden(
    scan: Scan, stand_in: HttpServer
) -> None:
    names = [f"glob/{number}" for number in range(5)]
    stand_in.on("/v2/_catalog*", replying(200, json.dumps({"repositories": names}).encode()))
    for number, scope in enumerate(["exact/name", *names]):
        body = json.dumps({"name": scope, "tags": ["v1"]}).encode()
        stand_in.on(f"/v2/{scope}/tags/list*", replying(200, body))
        stand_in.on(f"/v2/{scope}/manifests/*", image(number))
    grant(scan, "exact/name", "glob/*")
    scan = replace(scan, registry=client(stand_in.netloc))
    # It stops at its limit, in the middle of the catalog.
    assert scan_tags(replace(scan, limit=3)).queued == 3

    stand_in.on("/v2/_catalog*", replying(403, b'{"errors":[]}'))
    stand_in.on("/v2/exact/name/manifests/*", image(10))
    assert scan_tags(scan).queued == 1
    stand_in.on("/v2/exact/name/manifests/*", image(11))
    assert scan_tags(scan).queued == 1

    stand_in.on("/v2/_catalog*", replying(200, json.dumps({"repositories": names}).encode()))
    assert scan_tags(scan).queued == 3


def test_a_repository_without_tags_is_not_a_failure(
    scan: Scan, shelf: Registry, scope: str, caplog: pytest.LogCaptureFixture
) -> None:
    image = push_image(shelf, f"{scope}/emptied", "v1", [layer_bytes(500, 5)])
    push_image(shelf, f"{scope}/full", "v1", [layer_bytes(500, 6)])
    requests.delete(f"{shelf.url}/v2/{scope}/emptied/manifests/{image.digest}", timeout=60).raise_for_status()
    untagged = shelf.storage / "docker/registry/v2/repositories" / scope / "emptied/_manifests/tags"
    shutil.rmtree(untagged)
    grant(scan, f"{scope}/*")

    summary = scan_tags(scan)

    assert (summary.queued, summary.failed) == (1, 0)
    assert walk_repositories(scan, [f"{scope}/emptied"], "test", named=[f"{scope}/emptied"]).failed == 1


def test_an_index_read_for_some_platforms_is_read_for_all_when_its_parent_changes(
    scan: Scan, shelf: Registry, scope: str
) -> None:
    amd64 = push_image(shelf, scope, None, [layer_bytes(500, 45)], media="oci", platform="linux/amd64")
    arm64 = push_image(shelf, scope, None, [layer_bytes(500, 46)], media="oci", platform="linux/arm64")
    inner = push_index(shelf, scope, "v1", [amd64.descriptor, arm64.descriptor], media="oci")
    grant(scan, scope)
    limited = replace(scan, platforms=(Platform("linux", "amd64"),))
    assert scan_tags(limited).queued == 1
    push_index(shelf, scope, "v1", [Descriptor(OCI_INDEX, inner.digest, inner.descriptor.size)], media="oci")
    assert scan_tags(limited).queued == 0

    assert scan_tags(scan).queued == 1
    assert set(queued(scan)) == {amd64.layers[0].digest, arm64.layers[0].digest}


def test_one_repository_that_fails_does_not_end_the_walk(scan: Scan, stand_in: HttpServer) -> None:
    for scope, answer in {
        "a/html": replying(200, b"<html>", {"Content-Type": "text/html"}),
        "b/broken": replying(200, b'{"tags": 7}'),
        "c/none": replying(200, b'{"name":"c/none","tags":null}'),
        "d/gone": replying(404, b'{"errors":[{"code":"NAME_UNKNOWN"}]}'),
        "e/good": replying(200, b'{"name":"e/good","tags":["v1","bad tag","v2"]}'),
    }.items():
        stand_in.on(f"/v2/{scope}/tags/list*", answer)
    stand_in.on("/v2/e/good/manifests/v1", image(1))
    stand_in.on(
        "/v2/e/good/manifests/v2", replying(200, b'{"schemaVersion": 2, "layers": [{"digest": "../../etc"}]}')
    )
    stand_in.on("/v2/e/good/manifests/*", image(1))

    summary = walk_repositories(
        replace(scan, registry=client(stand_in.netloc)),
        ["a/html", "b/broken", "c/none", "d/gone", "e/good"],
        "test",
    )

    assert summary.queued == 1
    assert summary.failed >= 3
    assert set(queued(scan)) == {f"sha256:{1:064x}"}


def test_a_registry_that_stops_answering_ends_the_walk(scan: Scan, stand_in: HttpServer) -> None:
    stand_in.on("/v2/*", replying(503, b"", {"Retry-After": "1"}))

    summary = walk_repositories(
        replace(scan, registry=client(stand_in.netloc)), (f"scope/{number}" for number in range(1000)), "test"
    )

    assert summary.failed == 5
    assert was_paused(summary)
    assert "503" in str(summary)


def test_a_registry_that_goes_down_within_a_repository_ends_the_walk(
    scan: Scan, stand_in: HttpServer
) -> None:
    tags = [f"build-{number}" for number in range(1000)]
    stand_in.on("/v2/big/tags/list*", replying(200, json.dumps({"name": "big", "tags": tags}).encode()))
    stand_in.on("/v2/big/manifests/*", replying(503))
    stand_in.on("/v2/", replying(503))
    registry = client(stand_in.netloc)

    summary = walk_repositories(replace(scan, registry=registry), ["big", "behind"], "test")

    assert (summary.failed, summary.repositories) == (5, 1)


def test_tags_without_a_manifest_do_not_hide_later_ones(scan: Scan, stand_in: HttpServer) -> None:
    tags = [f"build-{number:02}" for number in range(20)]
    stand_in.on("/v2/big/tags/list*", replying(200, json.dumps({"name": "big", "tags": tags}).encode()))

    def only_heads(request: Request, connection: Connection) -> None:
        digest = digest_of(request.path.encode())
        if request.path.endswith("build-19") or digest_of(manifest_of(1)) in request.path:
            image(1)(request, connection)
        elif request.method == "HEAD":
            connection.reply(200, b"", {"Docker-Content-Digest": digest, "Content-Type": DOCKER_MANIFEST})
        else:
            connection.reply(500, b"")

    stand_in.on("/v2/", replying(200))
    stand_in.on("/v2/big/manifests/*", only_heads)

    summary = walk_repositories(replace(scan, registry=client(stand_in.netloc)), ["big"], "test")

    assert (summary.failed, summary.tags, summary.queued) == (19, 20, 1)


def test_a_repository_after_broken_ones_is_walked(scan: Scan, stand_in: HttpServer) -> None:
    broken = [f"broken{number}" for number in range(8)]
    for name in broken:
        stand_in.on(f"/v2/{name}/tags/list*", replying(500))
    stand_in.on("/v2/", replying(200))
    stand_in.on("/v2/good/tags/list*", replying(200, b'{"name": "good", "tags": ["v1"]}'))
    stand_in.on("/v2/good/manifests/*", image(1))

    summary = walk_repositories(replace(scan, registry=client(stand_in.netloc)), [*broken, "good"], "test")

    assert (summary.failed, summary.queued) == (8, 1)


def test_a_repository_with_100_000_tags_is_walked_to_its_end(
    scan: Scan, stand_in: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = [f"build-{number}" for number in range(100_000)]
    stand_in.on("/v2/big/tags/list*", replying(200, json.dumps({"name": "big", "tags": tags}).encode()))
    stand_in.on("/v2/big/manifests/*", image(1))
    registry = client(stand_in.netloc)
    # The tags' digests come without requests, which would take minutes.
    head = registry.head_manifest("big", "build-0")
    walked: list[str] = []
    monkeypatch.setattr(registry, "head_manifest", lambda scope, tag: walked.append(tag) or head)

    summary = walk_repositories(replace(scan, registry=registry), ["big"], "test")

    assert walked == tags
    assert (summary.tags, summary.queued, summary.failed) == (100_000, 1, 0)
    # It was new in the first batch.
    assert summary.unchanged == 100_000 - 100


def test_a_walk_of_many_tags_can_be_stopped(scan: Scan, stand_in: HttpServer) -> None:
    tags = [f"build-{number}" for number in range(1000)]
    same = image(1)
    stand_in.on("/v2/big/tags/list*", replying(200, json.dumps({"name": "big", "tags": tags}).encode()))
    walked = 0

    def count(request: Request, connection: Connection) -> None:
        nonlocal walked
        walked += 1
        if walked == 300:
            scan.service.stop.set()
        same(request, connection)

    stand_in.on("/v2/big/manifests/*", count)

    summary = walk_repositories(replace(scan, registry=client(stand_in.netloc)), ["big"], "test")

    assert summary.interrupted
    assert 200 <= summary.tags < 400
    assert summary.queued == 1


def test_a_tag_deleted_during_the_scan_is_not_a_failure(scan: Scan, stand_in: HttpServer) -> None:
    stand_in.on("/v2/moving/tags/list*", replying(200, b'{"name":"moving","tags":["missing","v1"]}'))
    stand_in.on("/v2/moving/manifests/gone", replying(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'))
    stand_in.on("/v2/moving/manifests/*", image(1))

    summary = walk_repositories(replace(scan, registry=client(stand_in.netloc)), ["moving"], "test")

    assert (summary.queued, summary.failed) == (1, 0)


def test_a_dry_run_counts_each_layer_once_and_writes_nothing(scan: Scan, shelf: Registry, scope: str) -> None:
    push_image(shelf, scope, "v1", [layer_bytes(1000, 120), layer_bytes(2000, 121)])
    push_image(shelf, scope, "v2", [layer_bytes(1000, 120), layer_bytes(4000, 122)])

    summary = walk_repositories(replace(scan, dry_run=True), [scope], "test")

    assert (summary.queued, summary.bytes, summary.known) == (3, 7000, 0)
    assert queued(scan) == {}


def test_the_catalog_is_read_only_for_globs(shelf: Registry, scope: str) -> None:
    push_image(shelf, f"{scope}/a", "v1", [layer_bytes(500, 130)])
    registry = client(shelf.netloc)
    before = len(shelf.requests())

    assert exact_names(["x/y", "z", "x/y", "z*"]) == ["x/y", "z"]
    assert list(CatalogMatches(registry, ["x/y", "z", "x/y"])) == []
    assert asked(shelf, before) == []
    assert list(CatalogMatches(registry, [f"{scope}/*", f"{scope}/b"])) == [f"{scope}/a"]
    assert list(CatalogMatches(registry, [f"{scope}/*", f"{scope}/a"])) == []
