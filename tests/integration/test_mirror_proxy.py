"""Manifests, tags and referrers through the mirror are the registry's answers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.mirror_app import TestedMirror, mirror_of
from tests.servers.bad_http import hanging_up, replying
from tests.servers.http_server import Connection, HttpServer, Request, start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.process import free_port
from tests.servers.push import MANIFEST, push_image
from tests.servers.registry import Registry, start_registry

JSON = {"Content-Type": "application/json"}
OF_THE_MOMENT = {"date", "connection", "transfer-encoding"}


@pytest.fixture
def mirror(registry: Registry, tmp_path: Path) -> Iterator[TestedMirror]:
    with mirror_of(registry.netloc, tmp_path) as mirror:
        yield mirror


@pytest.fixture
def upstream() -> Iterator[HttpServer]:
    with start_http_server() as server:
        yield server


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "path",
    [
        "/v2/",
        "/v2/{scope}/manifests/latest",
        "/v2/{scope}/manifests/{digest}",
        "/v2/{scope}/manifests/missing",
        "/v2/{scope}/tags/list",
        "/v2/{scope}/referrers/{digest}",
    ],
)
def test_the_answer_is_the_registrys_byte_for_byte(
    registry: Registry, mirror: TestedMirror, scope: str, method: str, path: str
) -> None:
    image = push_image(registry, scope, "latest", [layer_bytes(1000)])
    path = path.format(scope=scope, digest=image.digest)
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Accept": MANIFEST["docker"]}
        direct = session.request(method, registry.url + path, headers=headers, timeout=60)

    answer = mirror.ask(method, path, Accept=MANIFEST["docker"])

    assert answer.status == direct.status_code
    assert answer.body == direct.content
    expected = {n.lower(): v for n, v in direct.headers.items() if n.lower() not in OF_THE_MOMENT}
    assert {n.lower(): v for n, v in answer.headers.items() if n.lower() != "date"} == expected


def test_a_manifest_by_tag_is_requested_without_ids(upstream: HttpServer, tmp_path: Path) -> None:
    upstream.on("/v2/*", lambda request, connection: connection.reply(200, b"{}", JSON))
    with mirror_of(upstream.netloc, tmp_path) as mirror:
        mirror.get("/v2/a/manifests/latest")
        mirror.get("/v2/a/manifests/sha256:" + "0" * 64)
    by_tag, by_digest = upstream.requests
    assert by_tag.query == {"rbtorrent": ["false"]}
    assert by_digest.query == {}


def test_paging_of_tags_reaches_the_registry(upstream: HttpServer, tmp_path: Path) -> None:
    upstream.on("/v2/*", lambda request, connection: connection.reply(200, b"{}", JSON))
    with mirror_of(upstream.netloc, tmp_path) as mirror:
        mirror.get("/v2/a/tags/list?n=10&last=b&ns=" + upstream.netloc)
    assert upstream.requests[0].query == {"n": ["10"], "last": ["b"]}


def test_credentials_and_challenges_are_passed_through(upstream: HttpServer, tmp_path: Path) -> None:
    def refuse(request: Request, connection: Connection) -> None:
        challenge = 'Bearer realm="http://t/token",service="s"'
        connection.reply(401, b"{}", {**JSON, "WWW-Authenticate": challenge})

    upstream.on("/v2/*", refuse)
    with mirror_of(upstream.netloc, tmp_path) as mirror:
        answer = mirror.get("/v2/a/manifests/latest", Authorization="Bearer token", Cookie="a=b")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="http://t/token",service="s"'
    assert upstream.requests[0].headers["Authorization"] == "Bearer token"
    assert "Cookie" not in upstream.requests[0].headers


@pytest.mark.parametrize("status", [408, 429])
def test_statuses_that_engines_would_retry_become_503(
    upstream: HttpServer, tmp_path: Path, status: int
) -> None:
    blob = f"/v2/a/blobs/sha256:{'0' * 64}"

    def refuse(request: Request, connection: Connection) -> None:
        if request.method == "HEAD":
            connection.reply(200, b"layer")
        else:
            connection.reply(status, b"", {"Retry-After": "7"})

    upstream.on("/v2/*", refuse)
    with mirror_of(upstream.netloc, tmp_path) as mirror:
        for answer in (mirror.get("/v2/a/manifests/latest"), mirror.get(blob, Range="bytes=0-0,2-2")):
            assert (answer.status, answer.headers["Retry-After"]) == (503, "7")


def test_credentials_are_sent_in_cleartext_only_to_this_machine(upstream: HttpServer, tmp_path: Path) -> None:
    challenge = {**JSON, "WWW-Authenticate": 'Basic realm="registry"'}
    upstream.on("/*", lambda request, connection: connection.reply(401, b"{}", challenge))
    # It resolves to this machine, but not to a loopback address.
    outside = f"0.0.0.0:{upstream.port}"
    blob = f"/v2/a/blobs/sha256:{'0' * 64}"
    with mirror_of(outside, tmp_path / "registry") as mirror:
        for path in ("/v2/", "/v2/a/manifests/latest", blob):
            assert mirror.get(path, Authorization="Basic c2VjcmV0").status == 503
            assert mirror.get(path).status == 401
    assert len(upstream.requests) > 6
    assert [request for request in upstream.requests if "Authorization" in request.headers] == []

    upstream.requests.clear()
    with mirror_of(upstream.netloc, tmp_path / "torrents", torrents_url=f"http://{outside}") as mirror:
        assert mirror.get(blob, Authorization="Basic c2VjcmV0").status == 401
    assert [(request.method, request.headers["Authorization"]) for request in upstream.requests] == [
        ("GET", None),
        ("HEAD", "Basic c2VjcmV0"),
    ]


def test_a_registry_that_is_down_is_503(tmp_path: Path) -> None:
    with start_registry(tmp_path / "registry") as registry:
        netloc = registry.netloc
    with mirror_of(netloc, tmp_path) as mirror:
        assert mirror.get("/v2/").status == 503
        assert mirror.get("/v2/a/manifests/latest").status == 503


@pytest.mark.parametrize(
    ("ns", "status"), [("{registry}", 200), ("Docker.Example.com", 200), ("other.example.com", 404)]
)
def test_only_names_of_this_registry_are_served(
    registry: Registry, tmp_path: Path, scope: str, ns: str, status: int
) -> None:
    push_image(registry, scope, "latest", [layer_bytes(1000)])
    ns = ns.format(registry=registry.netloc)
    with mirror_of(registry.netloc, tmp_path, registry_names=["docker.example.com"]) as mirror:
        path = f"/v2/{scope}/manifests/latest?ns={ns}"
        assert mirror.get(path, Accept=MANIFEST["docker"]).status == status


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("path", ["/v2/a/blobs/uploads/", "/v2/a/manifests/latest"])
def test_writes_are_refused(mirror: TestedMirror, method: str, path: str) -> None:
    answer = mirror.ask(method, path)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"
    assert b'"UNSUPPORTED"' in answer.body


@pytest.mark.parametrize("path", ["/v2/_catalog", "/v2/a/tags/all", "/v2/A/manifests/x", "/other"])
def test_anything_else_is_404_in_the_registrys_json(mirror: TestedMirror, path: str) -> None:
    answer = mirror.get(path)
    assert answer.status == 404
    assert answer.headers["Content-Type"].startswith("application/json")
    assert b'"errors"' in answer.body


def test_an_outage_of_the_registry_is_logged_once_and_its_end(
    upstream: HttpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    blob = f"/v2/a/blobs/sha256:{'0' * 64}"
    with mirror_of(upstream.netloc, tmp_path) as mirror:
        for outage in (hanging_up(), replying(502, b"{}", JSON)):
            upstream.on("/*", outage)
            for path in ("/v2/", "/v2/a/manifests/latest", blob):
                assert mirror.get(path).status in (502, 503)
        upstream.on("/*", replying(404, b"{}", JSON))
        assert mirror.get(blob).status == 404
        upstream.on(blob, replying(418))
        assert mirror.get(blob).status == 503
    logged = [
        record.getMessage() for record in caplog.records if record.name in ("node.upstream", "node.app")
    ]
    logged = [line for line in logged if not line.startswith("torrents service")]
    for line, expected in zip(
        logged,
        (
            "registry failed reason=",
            r"registry works again seconds=\d+ failures=6",
            f"request failed path={blob} ",
        ),
        strict=True,
    ):
        assert re.match(expected, line)


def test_a_damaged_blob_and_a_storage_that_is_down_are_no_outage_of_the_registry(
    upstream: HttpServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged, stored = (f"/v2/a/blobs/sha256:{digit * 64}" for digit in "01")
    storage = f"http://127.0.0.1:{free_port()}/blobs/sha256/11/{'1' * 64}/data"
    upstream.on("/v2/", replying(200, b"{}", JSON))
    upstream.on("/v0/*", replying(404, b'{"errors": []}', JSON))
    upstream.on(damaged, replying(500, b"{}", JSON))
    upstream.on(stored, replying(307, b"", {"Location": storage}))
    with mirror_of(upstream.netloc, tmp_path) as mirror:
        for _ in range(3):
            assert [mirror.get(path).status for path in ("/v2/", damaged, stored)] == [200, 503, 503]
    logged = [record.getMessage() for record in caplog.records if record.name == "node.upstream"]
    failed = f"registry failed for one request url={upstream.url}{damaged} status=500"
    assert [line.partition(" reason=")[0] for line in logged] == [
        failed,
        "storage of the registry failed",
        failed,
        failed,
    ]
