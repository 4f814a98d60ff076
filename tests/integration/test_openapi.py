"""docs/openapi.yaml describes the running app: schemathesis tests it in front of a real registry."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import libtorrent
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings

from core.digest import Digest
from core.errors import InvalidName
from core.layer import Layer
from core.manifests.media_types import DOCKER_MANIFEST
from core.names import parse_scope
from core.torrents.hashing import hash_layer
from core.torrents.metainfo import build_metainfo
from core.torrents.piece_length import piece_length
from tests.memory_source import MemorySource
from tests.servers.layers import layer_bytes
from tests.servers.push import PushedImage, push_image
from tests.servers.registry import Registry
from tests.web_server import Front, front_of, served

DESCRIPTION = Path(__file__).parents[2] / "docs" / "openapi.yaml"
KEY = "secretkey"
# The registry creates a schema 1 manifest for clients that accept nothing newer.
ACCEPT = {"Accept": DOCKER_MANIFEST}
HEADERS = {"/v0/event": {"Authorization": KEY}, "/v2/{scope}/manifests/{reference}": ACCEPT}
SCOPE = "ubuntu"
CONTENT = layer_bytes(100_000, 1)

schema = schemathesis.openapi.from_path(DESCRIPTION)
described: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Running:
    """The app, with one brewed layer."""

    url: str
    image: PushedImage

    @property
    def layer(self) -> str:
        return self.image.layers[0].digest


@pytest.fixture(scope="module")
def running(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    image = push_image(registry, SCOPE, "22.04", [CONTENT])
    application = {"event_authorization": KEY, "public_url": "http://torrents.example.com"}
    layer = Digest.parse(image.layers[0].digest)
    with front_of(
        registry.netloc,
        tmp_path_factory.mktemp("openapi"),
        settings={"application": application},
        source=MemorySource({layer: CONTENT}),
    ) as front:
        brew(front, layer)
        with served(front) as netloc:
            yield Running(f"http://{netloc}", image)


def brew(front: Front, layer: Digest) -> None:
    with MemorySource({layer: CONTENT}).open(Layer(layer), 0) as reader:
        hashes = hash_layer(reader, len(CONTENT), piece_length(len(CONTENT)))
    front.parts.store.put(layer, build_metainfo(layer.hex, hashes, True).data)


def answers_as_described(method: str, path: str) -> Callable[..., None]:
    """Return the test of one operation: in parallel runs each needs a distinct name."""
    described.add((method, path))

    @schema.include(method=method, path=path).parametrize()
    @settings(max_examples=40, derandomize=True, suppress_health_check=list(HealthCheck))
    def test(case: schemathesis.Case, running: Running) -> None:
        case.call_and_validate(base_url=running.url, headers=HEADERS.get(case.operation.path, {}))

    return test


test_ping_is_as_described = answers_as_described("GET", "/ping")
test_health_is_as_described = answers_as_described("GET", "/healthz")
test_the_registry_s_base_is_as_described = answers_as_described("GET", "/v2/")
test_a_manifest_is_as_described = answers_as_described("GET", "/v2/{scope}/manifests/{reference}")
test_a_manifest_s_head_is_as_described = answers_as_described("HEAD", "/v2/{scope}/manifests/{reference}")
test_an_event_is_as_described = answers_as_described("POST", "/v0/event")
test_a_torrent_is_as_described = answers_as_described("GET", "/v0/torrents/{scope}/{digest}")
test_a_layer_is_as_described = answers_as_described("GET", "/v0/layers/{capability}/{hex}")
test_a_layer_s_head_is_as_described = answers_as_described("HEAD", "/v0/layers/{capability}/{hex}")

test_the_status_page_is_as_described = answers_as_described("GET", "/")
test_metrics_are_as_described = answers_as_described("GET", "/metrics")
test_joining_a_swarm_is_as_described = answers_as_described("POST", "/v0/swarm/{capability}/{hex}")
test_announcing_seeds_is_as_described = answers_as_described("POST", "/v0/swarm")


def test_all_operations_are_described() -> None:
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert {(operation.method.upper(), operation.path) for operation in operations} == described


@pytest.mark.parametrize("scope", ["ubuntu", "library/ubuntu", "a__b", "a--b", "lib/a---b", "a.b_c-d/e"])
def test_every_accepted_scope_matches_the_pattern(scope: str) -> None:
    pattern = schema.raw_schema["components"]["parameters"]["scope"]["schema"]["pattern"]
    assert re.search(pattern, parse_scope(scope))


@pytest.mark.parametrize("scope", ["a..b", "a___b", "a._b", "-a", "a-", "a//b", "A"])
def test_no_refused_scope_matches_the_pattern(scope: str) -> None:
    pattern = schema.raw_schema["components"]["parameters"]["scope"]["schema"]["pattern"]
    assert not re.search(pattern, scope)
    with pytest.raises(InvalidName):
        parse_scope(scope)


def test_an_existing_blob_is_served_as_described(running: Running) -> None:
    manifest = {"scope": SCOPE, "reference": "22.04"}
    by_digest = {"scope": SCOPE, "reference": running.image.digest}
    torrent = {"scope": SCOPE, "digest": running.layer}
    layer = web_seed(running)
    for method, path, parameters, headers, status in [
        ("GET", "/v2/{scope}/manifests/{reference}", manifest, ACCEPT, 200),
        ("HEAD", "/v2/{scope}/manifests/{reference}", manifest, ACCEPT, 200),
        ("GET", "/v2/{scope}/manifests/{reference}", by_digest, ACCEPT, 200),
        ("GET", "/v0/torrents/{scope}/{digest}", torrent, {}, 200),
        ("GET", "/v0/layers/{capability}/{hex}", layer, {}, 200),
        ("HEAD", "/v0/layers/{capability}/{hex}", layer, {}, 200),
        ("GET", "/v0/layers/{capability}/{hex}", layer, {"Range": "bytes=0-9"}, 206),
        ("GET", "/v0/layers/{capability}/{hex}", layer, {"Range": "bytes=100000-"}, 416),
        ("GET", "/v0/layers/{capability}/{hex}", layer, {"If-None-Match": f'"{running.layer}"'}, 304),
    ]:
        case = schema[path][method].Case(path_parameters=parameters, headers=headers)
        answer = case.call(base_url=running.url)
        assert answer.status_code == status, (method, path, answer.text)
        case.validate_response(answer)


def test_a_node_s_calls_are_answered_as_described(running: Running) -> None:
    layer = web_seed(running)
    node = {"node": "0" * 32, "port": 6881}
    join = {**node, "chunks": 1, "held": "AA=="}
    announce = {**node, "layers": [{**layer, "chunks": 1}, {**layer, "capability": "A", "chunks": 1}]}
    for path, parameters, body in [
        ("/v0/swarm/{capability}/{hex}", layer, join),
        ("/v0/swarm", {}, announce),
    ]:
        case = schema[path]["POST"].Case(path_parameters=parameters, body=body, media_type="application/json")
        answer = case.call(base_url=running.url)
        assert answer.status_code == 200, answer.text
        case.validate_response(answer)


def web_seed(running: Running) -> dict[str, str]:
    """Return the two parts of the web seed's path, from the torrent."""
    torrent = requests.get(f"{running.url}/v0/torrents/{SCOPE}/{running.layer}", timeout=60)
    [url] = libtorrent.load_torrent_buffer(torrent.content).url_seeds
    *_, capability, hex_digits = urlsplit(url).path.split("/")
    return {"capability": capability, "hex": hex_digits}
