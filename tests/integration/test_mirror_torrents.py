"""The mirror's requests to the service: torrents, and layers to brew."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libtorrent
import pytest

from core.torrents.hashing import LayerHashes
from core.torrents.metainfo import build_metainfo
from tests.mirror_app import mirror_of
from tests.nodes import make_torrent
from tests.servers.bad_http import hanging_up
from tests.servers.http_server import Connection, HttpServer, Request, start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.push import MANIFEST, push_blob, push_image
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true

CONTENT = layer_bytes(100_000, seed=11)


@pytest.fixture
def service() -> Iterator[HttpServer]:
    """A service whose answers tests set."""
    with start_http_server() as server:
        yield server


def test_a_torrent_counts_as_permission_and_contains_the_size(
    registry: Registry, service: HttpServer, tmp_path: Path, scope: str
) -> None:
    digest = push_blob(registry, scope, CONTENT).digest
    torrent = torrent_of(digest)
    service.on("/v0/torrents/*", lambda request, connection: connection.reply(200, torrent))
    before = len(registry.requests())
    with mirror_of(registry.netloc, tmp_path, torrents_url=service.url) as mirror:
        answer = mirror.head(f"/v2/{scope}/blobs/{digest}", Authorization="Bearer a")
    assert (answer.status, answer.headers["Content-Length"]) == (200, str(len(CONTENT)))
    assert service.requests[0].path == f"/v0/torrents/{scope}/{digest}"
    assert service.requests[0].headers["Authorization"] == "Bearer a"
    assert registry.requests()[before:] == []


@pytest.mark.parametrize(
    "reply",
    [
        (404, b"404 page not found"),
        (401, b""),
        (500, b""),
        (502, b""),
        (200, b"<html>please log in</html>"),
        (200, None),
        (200, bytes(2 << 20)),
    ],
    ids=["404", "401", "500", "502", "a web page", "another layer's torrent", "too long"],
)
def test_without_a_torrent_the_registry_decides(
    registry: Registry,
    service: HttpServer,
    tmp_path: Path,
    scope: str,
    reply: tuple[int, bytes | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    digest = push_blob(registry, scope, CONTENT).digest
    status, body = reply
    sent = torrent_of("sha256:" + "0" * 64) if body is None else body
    service.on("/v0/torrents/*", lambda request, connection: connection.reply(status, sent))
    with mirror_of(registry.netloc, tmp_path, torrents_url=service.url) as mirror:
        assert mirror.get(f"/v2/{scope}/blobs/{digest}").body == CONTENT
        assert mirror.get(f"/v2/{scope}/blobs/sha256:{'1' * 64}").status == 404
    assert ("serves no torrents: set mirror.torrents_url" in caplog.text) == (status == 404)
    # Other failures concern one layer.
    assert ("torrents service failed" in caplog.text) == (status in (404, 502))
    assert (f"torrent not used, the layer comes from the registry digest={digest}" in caplog.text) == (
        status == 500 or len(sent) > 1 << 20
    )


def test_a_silent_service_is_not_called_for_a_while(
    registry: Registry, service: HttpServer, tmp_path: Path, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.upstream.TORRENT_SECONDS", 5.0)
    monkeypatch.setattr("node.upstream.BACKOFF_SECONDS", 600.0)
    service.on("/v0/torrents/*", lambda request, connection: connection.pause())
    digests = [push_blob(registry, scope, layer_bytes(1000, seed=seed)).digest for seed in range(20, 23)]
    with mirror_of(registry.netloc, tmp_path, torrents_url=service.url) as mirror:
        for digest in digests:
            assert mirror.head(f"/v2/{scope}/blobs/{digest}").status == 200
    assert len(service.requests) == 1


def test_layers_of_torrents_off_have_no_torrent(
    registry: Registry, service: HttpServer, tmp_path: Path, scope: str
) -> None:
    digest = push_blob(registry, scope, CONTENT).digest
    with mirror_of(registry.netloc, tmp_path, torrents_url=service.url, torrents_off=["tests/*"]) as mirror:
        assert mirror.get(f"/v2/{scope}/blobs/{digest}").body == CONTENT
    assert service.requests == []


def test_brewing_a_layer_without_a_torrent_is_requested_once(
    registry: Registry, service: HttpServer, tmp_path: Path, scope: str
) -> None:
    manifest_requests: list[Request] = []

    def manifest(request: Request, connection: Connection) -> None:
        manifest_requests.append(request)
        connection.reply(200, b"{}")

    service.on("/v2/*", manifest)
    image = push_image(registry, scope, "latest", [CONTENT, layer_bytes(2000, seed=3)])
    with mirror_of(registry.netloc, tmp_path, torrents_url=service.url) as mirror:
        headers: dict[str, Any] = {"Accept": MANIFEST["docker"], "Authorization": "Bearer a"}
        assert mirror.get(f"/v2/{scope}/manifests/latest", **headers).status == 200
        for layer in image.layers:
            assert mirror.get(f"/v2/{scope}/blobs/{layer.digest}", **headers).status == 200
        assert comes_true(lambda: bool(manifest_requests))
    [request] = manifest_requests
    assert request.path == f"/v2/{scope}/manifests/{image.digest}"
    assert request.query == {"rbtorrent": ["true"]}
    assert request.headers["Authorization"] == "Bearer a"


def test_no_token_capability_or_info_hash_is_in_the_log(
    registry: Registry, service: HttpServer, tmp_path: Path, scope: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = f"/v2/{scope}/blobs/{push_blob(registry, scope, CONTENT).digest}"
    token, capability = "dGhyb3ctYXdheS10b2tlbg", "Y2FwYWJpbGl0eS1vZi10aGlzLWxheWVy"
    hex_digits = path.rpartition(":")[2]
    torrent = make_torrent(CONTENT, [f"{service.url}/v0/layers/{capability}/{hex_digits}"])
    info_hash = str(libtorrent.load_torrent_buffer(torrent).ti.info_hashes().v1)
    service.on("/v0/torrents/*", lambda request, connection: connection.reply(200, torrent))
    # Swarm calls and the web seed.
    service.on("/v0/*", hanging_up())
    with mirror_of(registry.netloc, tmp_path, torrents_url=service.url) as mirror:
        for kind in ("Bearer", "Basic"):
            assert mirror.get(path, Authorization=f"{kind} {token}").body == CONTENT
    with mirror_of(service.netloc, tmp_path / "down", torrents_url=service.url) as mirror:
        service.on("/v0/torrents/*", hanging_up())
        assert mirror.get(path, Authorization=f"Bearer {token}").status == 404

    assert {"/v0/layers", "/v0/swarm"} <= {
        request.path.partition(f"/{capability}")[0] for request in service.requests
    }
    assert "swarm calls failed" in caplog.text
    for secret in (token, capability, info_hash):
        assert secret not in caplog.text


def torrent_of(digest: str) -> bytes:
    """Return a .torrent for the layer, with the length of CONTENT."""
    hashes = LayerHashes(size=len(CONTENT), sha256="0" * 64, piece_length=65536, pieces=bytes(40))
    return build_metainfo(digest.removeprefix("sha256:"), hashes, True).data
