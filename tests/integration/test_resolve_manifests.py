"""Manifests left unresolved by events, read from a real registry."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from core.errors import DatabaseDown
from core.manifests.media_types import DOCKER_MANIFEST
from jobs.summary import exit_status
from sql.engine import create_engine_for
from sql.schema import create_missing
from sql.tables import Priority, build_tables
from sql.transaction import transaction
from tests.resolving import NOWHERE, ResolveJob, client
from tests.servers.bad_http import html, replying, silent
from tests.servers.http_server import start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.push import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    Descriptor,
    PushedImage,
    image_manifest,
    push_image,
    push_index,
    push_manifest,
)
from tests.servers.registry import Registry


@pytest.fixture
def job(database_url: str, registry: Registry, scope: str) -> Iterator[ResolveJob]:
    engine, tables = create_engine_for(url=database_url), build_tables()
    with transaction(engine) as connection:
        create_missing(connection, tables)
    yield ResolveJob(engine, tables, client(registry.url), scope)
    engine.dispose()


@pytest.fixture
def push(registry: Registry, scope: str) -> Callable[..., PushedImage]:
    """A function that pushes an image of two unique layers by digest."""
    seeds = iter(range(1000, 2000))

    def pushed(media: Any = "docker", platform: str = "linux/amd64", tag: str | None = None) -> PushedImage:
        start = zlib.crc32(scope.encode()) * 1000
        layers = [layer_bytes(1000, seed=start + next(seeds)) for _ in range(2)]
        return push_image(registry, scope, tag, layers, media=media, platform=platform)

    return pushed


def digests(*images: PushedImage) -> set[str]:
    return {layer.digest for image in images for layer in image.layers}


@pytest.mark.parametrize("media", ["docker", "oci"])
def test_an_images_layers_are_queued_as_pushed_and_its_config_is_not(
    job: ResolveJob, push: Callable[..., PushedImage], media: str
) -> None:
    image = push(media)
    job.enqueue(image.digest)
    pushed = job.now
    job.now += 90
    summary = job.run()
    assert job.added() == {pushed}
    assert job.queued() == dict.fromkeys(digests(image), Priority.PUSHED)
    assert job.waiting() == {}
    assert job.seen(image.digest) == {image.digest}
    assert str(summary) == "resolved 1 manifests, queued 2 layers, delayed 0, set aside 0, waiting 0"


@pytest.mark.parametrize("media", ["docker", "oci"])
def test_an_index_is_resolved_down_to_the_layers_of_its_images(
    job: ResolveJob, registry: Registry, push: Callable[..., PushedImage], media: Any
) -> None:
    images = [push(media, platform) for platform in ("linux/amd64", "linux/arm64")]
    index = push_index(registry, job.scope, None, [image.descriptor for image in images], media=media)
    job.enqueue(index.digest)
    job.run()
    assert job.queued().keys() == digests(*images)
    assert job.seen(index.digest, *(image.digest for image in images)) == {
        index.digest,
        *(image.digest for image in images),
    }


def test_an_index_of_indexes_is_resolved_too(
    job: ResolveJob, registry: Registry, push: Callable[..., PushedImage]
) -> None:
    first, second = push("oci"), push("oci", "linux/arm64")
    inner = push_index(registry, job.scope, None, [first.descriptor], media="oci")
    outer = push_index(registry, job.scope, None, [inner.descriptor, second.descriptor], media="oci")
    job.enqueue(outer.digest)
    job.run()
    assert job.queued().keys() == digests(first, second)


def test_an_image_resolved_before_is_not_fetched_again_for_its_index(
    job: ResolveJob, registry: Registry, push: Callable[..., PushedImage]
) -> None:
    image = push("oci")
    job.enqueue(image.digest)
    job.run()
    index = push_index(registry, job.scope, None, [image.descriptor] * 2, media="oci")
    job.enqueue(index.digest)
    job.run()
    fetched = [path for method, path, _ in registry.requests() if method == "GET" and image.digest in path]
    assert len(fetched) == 1
    assert job.waiting() == {}


def test_children_pushed_after_their_index_are_waited_for(
    job: ResolveJob, registry: Registry, push: Callable[..., PushedImage]
) -> None:
    there, late = push("oci"), push("oci", "linux/arm64")
    index = push_index(registry, job.scope, None, [late.descriptor, there.descriptor], media="oci")
    forget(registry, job.scope, late.digest)
    job.enqueue(index.digest)
    summary = job.run()
    assert job.queued().keys() == digests(there)
    assert (summary.delayed, summary.resolved, summary.waiting) == (1, 0, 1)
    row = job.waiting()[index.digest]
    assert (row.attempts, row.reason) == (1, f"1 of its manifests cannot be read, first {late.digest}")
    assert job.seen(index.digest) == set()

    push_manifest(registry, job.scope, None, late.manifest, MANIFEST["oci"])
    assert job.run().resolved == 0, "it was tried again before its time"
    job.now = row.next_try
    assert job.run().resolved == 1
    assert job.queued().keys() == digests(there, late)
    assert job.waiting() == {}


def test_delays_between_attempts_grow_and_attempts_end(job: ResolveJob) -> None:
    job.enqueue(NOWHERE)
    delays = []
    for _ in range(2):
        job.run(max_attempts=3)
        next_try = job.waiting()[NOWHERE].next_try
        delays.append(next_try - job.now)
        job.now = next_try
    assert 0 < delays[0] < delays[1]
    summary = job.run(max_attempts=3)
    assert (summary.set_aside, summary.waiting) == (1, 0)
    row = job.waiting()[NOWHERE]
    assert (row.next_try, row.attempts) == (None, 3)
    assert NOWHERE in row.reason
    job.now += 10**9
    assert job.run().failed == 0, "what is set aside is left alone"


def test_a_push_retries_a_manifest_that_was_set_aside(job: ResolveJob) -> None:
    job.enqueue(NOWHERE)
    job.run(max_attempts=1)
    job.enqueue(NOWHERE)
    assert job.run(max_attempts=1).set_aside == 1


def test_an_unresolvable_manifest_does_not_block_others(
    job: ResolveJob, registry: Registry, push: Callable[..., PushedImage]
) -> None:
    image = push()
    job.enqueue(NOWHERE)
    job.enqueue("sha256:../../etc", *(f"nonsense {number}" for number in range(100)))
    job.enqueue(image.digest, scope="../etc")
    job.enqueue(image.digest)
    summary = job.run()
    assert job.queued().keys() == digests(image)
    assert (summary.resolved, summary.delayed, summary.set_aside) == (1, 1, 1)


def test_foreign_empty_and_attested_layers_are_not_queued(job: ResolveJob) -> None:
    # A registry accepts foreign layers only if configured to, so this one is simulated.
    names = iter("abcdef")

    def blob(media_type: str, size: int = 10, urls: tuple[str, ...] = ()) -> Descriptor:
        return Descriptor(media_type, "sha256:" + next(names) * 64, size, urls)

    layer = blob(LAYER["oci"])
    others = [
        blob(LAYER["oci"], size=0),
        blob(LAYER["oci"], urls=("https://example.com/layer",)),
        blob("application/vnd.in-toto+json"),
        blob("application/vnd.dev.cosign.simplesigning.v1+json"),
    ]
    body = image_manifest(blob(CONFIG["oci"]), [*others, layer], media="oci")
    with start_http_server() as server:
        server.on("/v2/*", replying(200, body, {"Content-Type": MANIFEST["oci"]}))
        job.enqueue("sha256:" + hashlib.sha256(body).hexdigest())
        assert job.run(registry=client(server.url)).resolved == 1
    assert job.queued().keys() == {layer.digest}


def test_a_manifest_that_contradicts_itself_is_set_aside_at_once(job: ResolveJob) -> None:
    body = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST["docker"], "layers": "none"}).encode()
    digest = "sha256:" + hashlib.sha256(body).hexdigest()
    with start_http_server() as server:
        server.on("/v2/*", replying(200, body, {"Content-Type": MANIFEST["docker"]}))
        job.enqueue(digest)
        summary = job.run(registry=client(server.url))
    assert summary.set_aside == 1
    assert "layers is not a list" in job.waiting()[digest].reason


def test_endless_indexes_are_abandoned(job: ResolveJob) -> None:
    bodies: dict[str, bytes] = {}
    inner = NOWHERE
    for _ in range(20):
        child = Descriptor(INDEX["oci"], inner, 100)
        body = json.dumps(
            {"schemaVersion": 2, "mediaType": INDEX["oci"], "manifests": [child.as_json()]}
        ).encode()
        inner = "sha256:" + hashlib.sha256(body).hexdigest()
        bodies[inner] = body
    asked: list[str] = []
    with start_http_server() as server:

        def answer(request: Any, connection: Any) -> None:
            asked.append(request.path)
            connection.reply(200, bodies[request.path.rsplit("/", 1)[1]], {"Content-Type": INDEX["oci"]})

        server.on("/v2/*", answer)
        job.enqueue(inner)
        assert job.run(registry=client(server.url)).delayed == 1
    assert len(asked) < 10


@pytest.mark.parametrize("answer", [html(), html(500)], ids=["a web page", "a web page with 500"])
def test_a_manifest_without_a_usable_answer_is_retried(job: ResolveJob, answer: Any) -> None:
    with start_http_server() as server:
        server.on("/v2/*", answer)
        server.on("/v2/", replying(200))
        job.enqueue(NOWHERE)
        summary = job.run(registry=client(server.url))
    assert (summary.delayed, job.queued()) == (1, {})


@pytest.mark.parametrize("answer", [silent(), html(503)], ids=["silent", "503"])
def test_a_registry_that_is_down_ends_the_run_without_counting_attempts(
    job: ResolveJob, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    with start_http_server() as server:
        server.on("/v2/*", answer)
        job.enqueue(*(f"sha256:{number:064}" for number in range(20)))
        summary = job.run(registry=client(server.url, read_timeout=0.2))
        job.run(registry=client(server.url, read_timeout=0.2))
    assert (summary.delayed, summary.waiting, exit_status(summary)) == (0, 20, 1)
    assert {row.attempts for row in job.waiting().values()} == {0}
    assert len([line for line in caplog.messages if line.startswith("registry failed")]) == 1
    job.run()
    assert "registry works again" in caplog.text


def test_a_registry_that_limits_requests_costs_no_attempts(job: ResolveJob) -> None:
    with start_http_server() as server:
        server.on("/v2/*", replying(429))
        server.on("/v2/", replying(200))
        job.enqueue(*(f"sha256:{number:064}" for number in range(20)))
        summary = job.run(registry=client(server.url))
        assert len(server.requests) == 1
    assert "status 429" in str(summary.paused)
    assert {row.attempts for row in job.waiting().values()} == {0}


def test_a_database_that_fails_in_between_costs_no_attempt(
    job: ResolveJob, push: Callable[..., PushedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = push()
    job.enqueue(image.digest)

    def fail(*_: object, **__: object) -> None:
        raise DatabaseDown("the connection was lost")

    with monkeypatch.context() as failing:
        failing.setattr("jobs.resolve_manifests.enqueue_layers", fail)
        with pytest.raises(DatabaseDown):
            job.run()
    assert {row.attempts for row in job.waiting().values()} == {0}
    assert job.run().resolved == 1
    assert job.queued().keys() == digests(image)


def test_unreadable_manifests_do_not_delay_others(job: ResolveJob, push: Callable[..., PushedImage]) -> None:
    good = push()
    with start_http_server() as server:
        server.on("/v2/*", html(500))
        server.on("/v2/", replying(200))
        server.on(
            f"/v2/{job.scope}/manifests/{good.digest}",
            replying(200, good.manifest, {"Content-Type": DOCKER_MANIFEST}),
        )
        job.enqueue(*(f"sha256:{number:064}" for number in range(20)), good.digest)
        summary = job.run(registry=client(server.url))
    assert (summary.delayed, summary.resolved) == (20, 1)
    assert job.queued().keys() == digests(good)


def test_a_stopped_run_leaves_the_rest_for_the_next(
    job: ResolveJob, push: Callable[..., PushedImage]
) -> None:
    images = [push(), push()]
    job.enqueue(*(image.digest for image in images))
    job.stop.set()
    assert job.run().waiting == 2
    job.stop.clear()
    assert job.run().resolved == 2
    assert job.queued().keys() == digests(*images)


def forget(registry: Registry, scope: str, digest: str) -> None:
    """Delete a manifest, by the API."""
    requests.delete(f"{registry.url}/v2/{scope}/manifests/{digest}", timeout=60).raise_for_status()
