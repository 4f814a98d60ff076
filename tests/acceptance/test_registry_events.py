"""A real registry notifies the daemon's web app of pushes: despite failures, layers are queued."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.notifications import EXAMPLE, EXAMPLE_LAYER
from tests.notified import KEY, Receiver, receiving
from tests.servers.bad_http import replying
from tests.servers.http_server import start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.process import require
from tests.servers.push import (
    MANIFEST,
    PushedImage,
    image_manifest,
    mount_blob,
    push_image,
    push_index,
    push_manifest,
)
from tests.servers.registry import Endpoint
from tests.servers.waiting import comes_true


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as running:
        yield running


def push(receiver: Receiver, scope: str = "demo/app", seed: int = 1, **more: Any) -> PushedImage:
    layers = [layer_bytes(2000, 2 * seed), layer_bytes(3000, 2 * seed + 1)]
    return push_image(receiver.registry, scope, f"v{seed}", layers, **more)


def layers_of(*images: PushedImage) -> set[str]:
    return {layer.digest for image in images for layer in image.layers}


@pytest.mark.parametrize("media", ["docker", "oci"])
def test_a_pushed_image_is_resolved_and_its_layers_queued(receiver: Receiver, media: str) -> None:
    image = push(receiver, media=media)
    assert comes_true(lambda: receiver.waiting() == {("demo/app", image.digest)})
    assert receiver.queued() == set()

    assert receiver.resolve() == ("resolved 1 manifests, queued 2 layers, delayed 0, set aside 0, waiting 0")
    assert receiver.queued() == layers_of(image)
    assert receiver.installation.last_line("run", "brew") == "brewed 2, failed 0, waiting 0"


@pytest.mark.parametrize("media", ["docker", "oci"])
def test_with_includereferences_the_layers_are_queued_at_once(tmp_path: Path, media: str) -> None:
    with receiving(tmp_path, includereferences=True) as receiver:
        image = push(receiver, media=media)
        assert comes_true(lambda: receiver.queued() == layers_of(image))
        assert receiver.waiting() == set()
        assert image.config.digest not in receiver.queued()


def test_a_scope_without_the_role_is_ignored(receiver: Receiver) -> None:
    push(receiver, scope="other/app", seed=1)
    image = push(receiver, seed=2)
    assert comes_true(lambda: receiver.waiting() == {("demo/app", image.digest)})


def test_a_role_granted_and_revoked_counts_for_the_next_push(receiver: Receiver) -> None:
    receiver.installation.run("role", "grant", "other/app")
    assert comes_true(lambda: bool(push(receiver, scope="other/app", seed=1)) and bool(receiver.waiting()))
    receiver.installation.run("role", "revoke", "other/app", "demo/*")
    assert comes_true(lambda: _takes_nothing(receiver))


def _takes_nothing(receiver: Receiver) -> bool:
    """Return whether a push, followed by an accepted event, wrote nothing."""
    before = receiver.waiting()
    body = '{"action":"push","target":{"mediaType":"%s","digest":"sha256:%064x","repository":"demo/app"}}'
    event = body % (MANIFEST["docker"], random.getrandbits(256))
    assert receiver.post(f'{{"events":[{event}]}}'.encode()).text == "OK"
    return receiver.waiting() == before


@pytest.mark.parametrize("includereferences", [True, False])
def test_layers_mounted_from_another_repository_are_queued(tmp_path: Path, includereferences: bool) -> None:
    with receiving(tmp_path, includereferences=includereferences) as receiver:
        image = push(receiver, scope="other/base")
        for blob in (image.config, *image.layers):
            assert mount_blob(receiver.registry, "demo/app", blob.digest, "other/base")
        body = image_manifest(image.config, image.layers)
        push_manifest(receiver.registry, "demo/app", "v1", body, MANIFEST["docker"])
        if not includereferences:
            assert comes_true(lambda: len(receiver.waiting()) == 1)
            receiver.resolve()
        assert comes_true(lambda: receiver.queued() == layers_of(image))
        assert {row[1] for row in receiver.rows("_scope")} == {"demo/app"}


@pytest.mark.parametrize("includereferences", [True, False])
@pytest.mark.parametrize("media", ["docker", "oci"])
def test_a_multi_arch_image_is_queued_with_all_its_platforms(
    tmp_path: Path, media: Any, includereferences: bool
) -> None:
    with receiving(tmp_path, includereferences=includereferences) as receiver:
        images = [
            push(receiver, seed=seed, media=media, platform=platform)
            for seed, platform in enumerate(("linux/amd64", "linux/arm64"))
        ]
        index = push_index(
            receiver.registry, "demo/app", "multi", [image.descriptor for image in images], media=media
        )
        assert comes_true(lambda: ("demo/app", index.digest) in receiver.waiting())
        receiver.resolve()
        assert receiver.queued() == layers_of(*images)
        assert receiver.waiting() == set()


def test_children_pushed_after_their_index_are_found(receiver: Receiver) -> None:
    there, late = push(receiver, seed=1), push(receiver, seed=2, platform="linux/arm64")
    index = push_index(receiver.registry, "demo/app", "multi", [late.descriptor, there.descriptor])
    assert comes_true(lambda: ("demo/app", index.digest) in receiver.waiting())
    manifest_url = f"{receiver.registry.url}/v2/demo/app/manifests/{late.digest}"
    requests.delete(manifest_url, timeout=60).raise_for_status()
    ended = receiver.installation.run("run", "resolve-manifests", check=False)
    assert ended.returncode == 1
    assert receiver.queued() == layers_of(there)
    assert ("demo/app", index.digest) in receiver.waiting()

    push_manifest(receiver.registry, "demo/app", None, late.manifest, MANIFEST["docker"])

    def the_late_one_is_queued() -> bool:
        receiver.installation.run("run", "resolve-manifests", check=False)
        return receiver.queued() == layers_of(there, late)

    assert comes_true(the_late_one_is_queued)


def test_a_push_of_layers_known_before_writes_no_row_twice(receiver: Receiver) -> None:
    image = push(receiver)
    assert comes_true(lambda: len(receiver.waiting()) == 1)
    receiver.resolve()
    receiver.installation.run("run", "brew")
    mapping = receiver.rows("")

    same = push(receiver)
    assert same.digest == image.digest
    added = push_image(
        receiver.registry,
        "demo/app",
        "more",
        [layer_bytes(2000, 2), layer_bytes(3000, 3), layer_bytes(4000, 99)],
    )
    assert comes_true(lambda: ("demo/app", added.digest) in receiver.waiting())
    receiver.resolve()
    assert [row for row in receiver.rows("") if row in mapping] == mapping, "a brewed layer was touched"
    assert {row[0] for row in receiver.rows("")} - {row[0] for row in mapping} == {added.layers[2].digest}
    assert receiver.installation.last_line("run", "brew") == "brewed 1, failed 0, waiting 0"


@pytest.mark.parametrize("includereferences", [True, False])
def test_events_repeated_or_out_of_order_change_nothing(tmp_path: Path, includereferences: bool) -> None:
    with start_http_server() as recorder:
        recorder.on("/events", replying(200))
        sink: Endpoint = {"url": f"{recorder.url}/events", "timeout": "5s"}
        with receiving(tmp_path, includereferences=includereferences, sinks=(sink,)) as receiver:
            images = [push(receiver, seed=seed, media="oci") for seed in range(4)]
            index = push_index(
                receiver.registry, "demo/app", "all", [one.descriptor for one in images], media="oci"
            )
            assert comes_true(lambda: b"image.index" in b"".join(one.body for one in recorder.requests))
            assert comes_true(lambda: ("demo/app", index.digest) in receiver.waiting())
            receiver.resolve()
            assert receiver.queued() == layers_of(*images)
            before = receiver.everything()

            bodies = [request.body for request in recorder.requests] * 3
            random.Random(1).shuffle(bodies)
            for body in bodies:
                assert receiver.post(body).text == "OK"
            receiver.resolve()
            after = receiver.everything()
    # The time at which a manifest was last seen may change; the set of manifests may not.
    assert after[:-1] == before[:-1]
    assert [row[:2] for row in after[-1]] == [row[:2] for row in before[-1]]


def test_pushes_during_an_outage_arrive_afterwards(receiver: Receiver) -> None:
    receiver.web.stop()
    images = [push(receiver, seed=seed) for seed in range(3)]
    receiver.web.start()
    expected = {("demo/app", image.digest) for image in images}
    assert comes_true(lambda: receiver.waiting() == expected)


def test_an_app_killed_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    with receiving(tmp_path, includereferences=True) as receiver:
        images = []
        for seed in range(12):
            images.append(push(receiver, seed=seed))
            if seed % 4 == 1:
                receiver.web.kill()
                receiver.web.start()
        assert comes_true(lambda: receiver.queued() == layers_of(*images))


def test_events_lost_with_a_killed_registry_are_recovered_by_a_backfill(receiver: Receiver) -> None:
    receiver.web.stop()
    images = [push(receiver, seed=seed) for seed in range(3)]
    receiver.registry.kill()
    receiver.registry.start()
    receiver.web.start()
    after = push(receiver, seed=9)
    assert comes_true(lambda: receiver.waiting() == {("demo/app", after.digest)}), "the others were lost"

    receiver.installation.run("backfill", "repository", "demo/app")

    assert receiver.queued() == layers_of(*images, after)


def test_a_registry_with_another_key_is_refused_and_its_key_is_not_logged(tmp_path: Path) -> None:
    with receiving(tmp_path, key="another key") as receiver:
        push(receiver)
        log = receiver.registry.process.log
        assert comes_true(lambda: "401 Unauthorized" in log.read_text())
        assert (receiver.queued(), receiver.waiting()) == (set(), set())
        assert KEY not in (receiver.installation.folder / "web.log").read_text()


def test_the_example_posted_by_curl_is_ok_and_queues_its_layer(receiver: Receiver) -> None:
    curl = [require("curl", "curl"), "--silent", "--show-error", "--noproxy", "*"]
    what = ["-H", f"Authorization: {KEY}", "-d", f"@{EXAMPLE}", f"{receiver.url}/v0/event"]

    def posted() -> str:
        return subprocess.run([*curl, *what], capture_output=True, text=True, check=True).stdout

    assert posted() == "OK"
    assert receiver.queued() == set(), "library/test does not have the role"
    receiver.installation.grant("library/test")
    assert comes_true(lambda: posted() == "OK" and receiver.queued() == {EXAMPLE_LAYER})
    assert [row[0] for row in receiver.rows("")] == [EXAMPLE_LAYER]


def test_the_longest_event_of_a_registry_does_not_block_later_ones(tmp_path: Path) -> None:
    with receiving(tmp_path, timeout="60s", includereferences=True) as receiver:
        base = push(receiver, scope="other/app", media="oci")
        manifest = json.loads(base.manifest)
        # The registry copies it into its event, where Go writes each of these as \u0026.
        manifest["layers"][0]["annotations"] = {"note": "&" * 3_700_000}
        push_manifest(receiver.registry, "other/app", "long", json.dumps(manifest).encode(), MANIFEST["oci"])
        image = push(receiver, seed=2)
        assert comes_true(lambda: receiver.queued() == layers_of(image))
