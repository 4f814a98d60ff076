"""Layers through the mirror: the registry authorises, then bytes come from the cache or a download."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from core.digest import Digest
from tests.mirror_app import TestedMirror, mirror_config, mirror_of, open_node
from tests.servers.cutting_proxy import CuttingProxy, start_cutting_proxy
from tests.servers.http_server import Connection, Request, start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.push import push_blob
from tests.servers.registry import Registry, start_registry
from tests.servers.waiting import comes_true
from tests.wsgi import call, environ_of

SIZE = 3 * 1024 * 1024 + 17
READER = ("reader", "throw-away")
READERS_HEADER = "Basic cmVhZGVyOnRocm93LWF3YXk="


@pytest.fixture
def mirror(registry: Registry, tmp_path: Path) -> Iterator[TestedMirror]:
    with mirror_of(registry.netloc, tmp_path) as mirror:
        yield mirror


@pytest.fixture
def layer(registry: Registry, scope: str) -> tuple[str, bytes]:
    """The path of a layer below /v2/, and its bytes."""
    content = layer_bytes(SIZE, seed=hash(scope))
    digest = push_blob(registry, scope, content).digest
    return f"/v2/{scope}/blobs/{digest}", content


def digest_of_path(path: str) -> Digest:
    return Digest.parse(path.rpartition("/")[2])


def is_cached(mirror: TestedMirror, path: str) -> bool:
    return any(entry.digest == digest_of_path(path) for entry in mirror.node.cache.entries())


def wait_until_cached(mirror: TestedMirror, path: str) -> None:
    assert comes_true(lambda: is_cached(mirror, path)), "the layer does not get into the cache"


def test_a_layer_is_complete_while_downloaded_and_from_the_cache(
    registry: Registry, mirror: TestedMirror, layer: tuple[str, bytes]
) -> None:
    path, content = layer
    first = mirror.get(path)
    wait_until_cached(mirror, path)
    second = mirror.get(path)

    for answer in (first, second):
        assert answer.status == 200
        assert answer.body == content
        assert answer.headers["Content-Length"] == str(SIZE)
        assert answer.headers["Docker-Content-Digest"] == str(digest_of_path(path))
    assert [request for request in registry.requests() if request[0] == "GET" and request[1] == path] == [
        ("GET", path, 200)
    ]


def test_head_returns_the_size_and_starts_no_download(mirror: TestedMirror, layer: tuple[str, bytes]) -> None:
    path, _ = layer
    answer = mirror.head(path)
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, str(SIZE), b"")
    assert mirror.node.downloads.status() == []


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize(
    ("range_", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=-100", SIZE - 100, SIZE),
        ("bytes=1000000-2000000", 1_000_000, 2_000_001),
        ("bytes=1048577-", 1_048_577, SIZE),
    ],
)
def test_a_range_is_answered_with_206(
    mirror: TestedMirror, layer: tuple[str, bytes], cached: bool, range_: str, start: int, end: int
) -> None:
    path, content = layer
    if cached:
        mirror.get(path)
        wait_until_cached(mirror, path)
    answer = mirror.get(path, Range=range_)
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/{SIZE}"
    assert answer.body == content[start:end]


def test_a_range_beyond_the_end_is_416(mirror: TestedMirror, layer: tuple[str, bytes]) -> None:
    answer = mirror.get(layer[0], Range=f"bytes={SIZE}-")
    assert answer.status == 416
    assert answer.headers["Content-Range"] == f"bytes */{SIZE}"


def test_a_range_of_another_version_is_ignored(mirror: TestedMirror, layer: tuple[str, bytes]) -> None:
    path, content = layer
    answer = mirror.get(path, Range="bytes=5-", If_Range='"sha256:other"')
    assert (answer.status, answer.body) == (200, content)
    answer = mirror.get(path, Range="bytes=5-", If_Range=f'"{digest_of_path(path)}"')
    assert (answer.status, answer.body) == (206, content[5:])


def test_a_layer_that_the_client_has_is_304(mirror: TestedMirror, layer: tuple[str, bytes]) -> None:
    path, content = layer
    answer = mirror.get(path, If_None_Match=f'W/"x", "{digest_of_path(path)}"', Range="bytes=5-")
    assert (answer.status, answer.body) == (304, b"")
    assert mirror.get(path, If_None_Match='"sha256:other"').body == content
    assert mirror.get(f"/v2/another/blobs/{digest_of_path(path)}", If_None_Match="*").status == 404


def test_several_ranges_are_passed_to_the_registry(mirror: TestedMirror, layer: tuple[str, bytes]) -> None:
    path, content = layer
    answer = mirror.get(path, Range="bytes=0-3,100-103")
    assert answer.status == 206
    assert answer.headers["Content-Type"].startswith("multipart/byteranges")
    assert content[:4] in answer.body
    assert content[100:104] in answer.body
    assert not is_cached(mirror, path)


def test_empty_answers_of_the_registry_count_as_layers_only_while_they_are_sent(tmp_path: Path) -> None:
    path = f"/v2/a/blobs/sha256:{'0' * 64}"

    def answer(request: Request, connection: Connection) -> None:
        head = request.method == "HEAD"
        connection.reply(200 if head else 416, b"layer" if head else b"", {"Content-Type": "text/plain"})

    with start_http_server() as upstream:
        upstream.on(path, answer)
        with open_node(mirror_config(upstream.netloc, tmp_path), max_bodies=1) as node:
            mirror = TestedMirror(node.app, node)
            assert [mirror.get(path, Range="bytes=0-1,9-").status for _ in range(2)] == [416, 416]


def test_a_blob_with_a_digest_of_another_algorithm_is_passed_on(
    registry: Registry, mirror: TestedMirror, scope: str
) -> None:
    content = layer_bytes(100_000, seed=512)
    digest = f"sha512:{hashlib.sha512(content).hexdigest()}"
    path = f"/v2/{scope}/blobs/{digest}"
    with requests.Session() as session:
        session.trust_env = False
        upload = session.post(f"{registry.url}/v2/{scope}/blobs/uploads/", timeout=60)
        headers = {"Content-Type": "application/octet-stream"}
        where = f"{upload.headers['Location']}&digest={digest}"
        session.put(where, data=content, headers=headers, timeout=60).raise_for_status()

    assert mirror.get(path).body == content
    answer = mirror.head(path)
    assert (answer.status, answer.headers["Content-Length"], answer.body) == (200, "100000", b"")
    answer = mirror.get(path, Range="bytes=99990-")
    assert (answer.status, answer.body) == (206, content[99990:])
    assert mirror.get(path[:-1] + ("1" if path[-1] == "0" else "0")).status == 404
    assert mirror.node.cache.entries() == []


def test_a_reader_that_leaves_does_not_end_the_download(
    mirror: TestedMirror, layer: tuple[str, bytes]
) -> None:
    path, _ = layer
    assert mirror.get(path, Range="bytes=0-", chunks=1).status == 206
    wait_until_cached(mirror, path)


def test_an_empty_blob_is_an_empty_answer(registry: Registry, mirror: TestedMirror, scope: str) -> None:
    digest = push_blob(registry, scope, b"").digest
    answer = mirror.get(f"/v2/{scope}/blobs/{digest}")
    assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")


def test_a_cached_blob_that_the_repository_lacks_is_404(
    mirror: TestedMirror, layer: tuple[str, bytes]
) -> None:
    path, _ = layer
    mirror.get(path)
    wait_until_cached(mirror, path)
    assert mirror.get(f"/v2/another/repository/blobs/{digest_of_path(path)}").status == 404


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Registry]:
    with start_registry(tmp_path / "private", htpasswd=dict([READER])) as registry:
        yield registry


def test_a_cached_private_layer_is_only_for_authorised_readers(private: Registry, tmp_path: Path) -> None:
    content = layer_bytes(SIZE)
    path = f"/v2/private/blobs/{push_blob(private, 'private', content, auth=READER).digest}"
    with mirror_of(private.netloc, tmp_path) as mirror:
        assert mirror.get(path, Authorization=READERS_HEADER).body == content
        wait_until_cached(mirror, path)

        for headers in ({}, {"Authorization": "Basic cmVhZGVyOndyb25n"}):
            for more in (
                {},
                {"Range": "bytes=5-"},
                {"Range": "bytes=0-3,100-103"},
                {"Range": f"bytes={SIZE}-"},
                {"If-None-Match": f'"{digest_of_path(path)}"'},
                {"If-None-Match": "*"},
            ):
                for method in ("GET", "HEAD"):
                    answer = mirror.ask(method, path, **headers, **more)
                    assert answer.status == 401
                    assert answer.headers["WWW-Authenticate"] == 'Basic realm="tests"'
                    assert content[5:100] not in answer.body
        assert mirror.get(path, Authorization=READERS_HEADER).body == content


def test_a_verdict_is_requested_once_a_minute_per_caller(
    registry: Registry, tmp_path: Path, scope: str
) -> None:
    path = f"/v2/{scope}/blobs/{push_blob(registry, scope, layer_bytes(1000)).digest}"
    with mirror_of(registry.netloc, tmp_path) as mirror:
        before = len(registry.requests())
        for authorization in ("Bearer a", "Bearer a", "Bearer b"):
            assert mirror.head(path, Authorization=authorization).status == 200
        asked = registry.requests()[before:]
    assert [request[0] for request in asked if request[1] == path] == ["HEAD", "HEAD"]


def test_without_a_verdict_a_cached_layer_is_503(tmp_path: Path) -> None:
    with start_registry(tmp_path / "registry") as registry, mirror_of(registry.netloc, tmp_path) as mirror:
        content = layer_bytes(SIZE)
        path = f"/v2/a/blobs/{push_blob(registry, 'a', content).digest}"
        assert mirror.get(path).body == content
        wait_until_cached(mirror, path)
        registry.stop()
        mirror.node.verdicts.forget("a", digest_of_path(path), None)
        assert mirror.get(path).status == 503


@pytest.fixture
def proxy(registry: Registry) -> Iterator[CuttingProxy]:
    with start_cutting_proxy(registry.netloc) as proxy:
        yield proxy


def test_if_every_attempt_at_the_registry_fails_the_body_is_incomplete(
    registry: Registry, proxy: CuttingProxy, tmp_path: Path, scope: str
) -> None:
    content = layer_bytes(SIZE, seed=2)
    path = f"/v2/{scope}/blobs/{push_blob(registry, scope, content).digest}"
    with mirror_of(proxy.netloc, tmp_path, time_limit=5) as mirror:
        assert mirror.head(path).status == 200
        proxy.break_after(64 * 1024, times=10_000)
        answer = mirror.get(path)
        assert answer.status == 503 or len(answer.body) < SIZE
        assert not is_cached(mirror, path)
        assert content.startswith(answer.body) or answer.status == 503


def test_no_more_layers_are_sent_at_once_than_allowed(
    registry: Registry, tmp_path: Path, layer: tuple[str, bytes]
) -> None:
    path, content = layer
    with open_node(mirror_config(registry.netloc, tmp_path), max_bodies=1) as node:
        mirror = TestedMirror(node.app, node)
        body = node.app(environ_of("GET", path, {}), lambda *answer: None)
        answer = mirror.get(path)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert mirror.head(path).status == 200
        body.close()
        assert mirror.get(path).body == content


def test_status_and_changes_of_the_cache_are_for_this_machine(
    mirror: TestedMirror, layer: tuple[str, bytes]
) -> None:
    path, _ = layer
    mirror.get(path)
    wait_until_cached(mirror, path)
    digest = digest_of_path(path)
    calls = [
        ("GET", "/v0/mirror/status", 200),
        ("PUT", f"/v0/mirror/pins/{digest}", 204),
        ("DELETE", f"/v0/mirror/pins/{digest}", 204),
        ("DELETE", f"/v0/mirror/layers/{digest}", 204),
    ]
    for address in ("10.0.0.1", "2001:db8::1", ""):
        for method, target, _ in calls:
            assert call(mirror.app, method, target, environ={"REMOTE_ADDR": address}).status == 403
    assert is_cached(mirror, path)
    for address in ("::1", "::ffff:127.0.0.1"):
        assert call(mirror.app, "GET", calls[0][1], environ={"REMOTE_ADDR": address}).status == 200
    assert [mirror.ask(method, target).status for method, target, _ in calls] == [one[2] for one in calls]
