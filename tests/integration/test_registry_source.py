"""The repository that a layer is read from: the known ones in order, otherwise any that has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from core.blobs.registry import RegistryBlobs
from core.config.config import DockerRegistry
from core.errors import BadAnswer, NotFound, Refused, TimedOut, Unavailable
from core.http.client import HttpClient
from core.layer import Layer
from core.registry.client import RegistryClient
from tests.layer_backends import layer_of
from tests.servers.bad_http import html, in_turn, replying, sending, silent
from tests.servers.http_server import Answer, start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.push import Bearer, push_blob
from tests.servers.registry import Registry, start_registry
from tests.servers.token_server import User, start_token_server

CONTENT = layer_bytes(300_000, seed=3)
LAYER = layer_of(CONTENT)


@pytest.fixture(scope="module")
def quiet_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry without other clients: its log has only requests of the source."""
    with start_registry(tmp_path_factory.mktemp("quiet")) as registry:
        push_blob(registry, "team/app", CONTENT)
        push_blob(registry, "team/base", CONTENT)
        push_blob(registry, "other", b"something else")
        yield registry


@pytest.fixture
def http() -> Iterator[HttpClient]:
    with HttpClient(2.0, 20.0) as client:
        yield client


def source_of(
    http: HttpClient,
    host: str,
    candidates: Iterable[str] = (),
    user: str | None = None,
    password: str | None = None,
) -> RegistryBlobs:
    settings = DockerRegistry(host=host, proto="http")
    return RegistryBlobs(RegistryClient(settings, http, user, password), lambda: candidates)


def known_in(*scopes: str) -> Layer:
    return replace(LAYER, scopes=scopes)


def read(source: RegistryBlobs, layer: Layer, offset: int = 0, length: int | None = None) -> bytes:
    got = bytearray()
    buffer = memoryview(bytearray(64 * 1024))
    with source.open(layer, offset, length) as reader:
        while count := reader.readinto(buffer):
            got += buffer[:count]
    return bytes(got)


def requests_since(registry: Registry, before: int) -> list[tuple[str, str, int]]:
    """Method, repository and status of the requests after the first `before`."""
    return [
        (method, path.removeprefix("/v2/").partition("/blobs/")[0], status)
        for method, path, status in registry.requests()[before:]
    ]


def test_the_first_known_repository_that_has_it_is_read(quiet_registry: Registry, http: HttpClient) -> None:
    source = source_of(http, quiet_registry.netloc)
    before = len(quiet_registry.requests())
    layer = known_in("deleted/app", "other", "team/app", "team/base")

    assert source.size(layer) == len(CONTENT)
    assert read(source, layer) == CONTENT

    assert requests_since(quiet_registry, before) == [
        ("HEAD", "deleted/app", 404),
        ("HEAD", "other", 404),
        ("HEAD", "team/app", 200),
        ("GET", "team/app", 200),
    ]


def test_a_layer_in_none_of_its_repositories_is_missing(quiet_registry: Registry, http: HttpClient) -> None:
    source = source_of(http, quiet_registry.netloc, candidates=["team/app"])

    with pytest.raises(NotFound, match="deleted/app, other"):
        source.size(known_in("deleted/app", "other"))


def test_a_layer_without_repositories_is_searched_with_one_request_each(
    quiet_registry: Registry, http: HttpClient
) -> None:
    source = source_of(http, quiet_registry.netloc, candidates=["other", "team/base", "team/app"])
    before = len(quiet_registry.requests())

    assert source.size(LAYER) == len(CONTENT)
    assert read(source, LAYER) == CONTENT
    assert read(source, LAYER, 1000, 500) == CONTENT[1000:1500]

    assert requests_since(quiet_registry, before) == [
        ("HEAD", "other", 404),
        ("HEAD", "team/base", 200),
        ("GET", "team/base", 200),
        ("GET", "team/base", 206),
    ]


def test_the_catalog_may_be_searched(quiet_registry: Registry, http: HttpClient) -> None:
    client = RegistryClient(DockerRegistry(host=quiet_registry.netloc, proto="http"), http)
    source = RegistryBlobs(client, client.list_repositories)

    assert read(source, LAYER) == CONTENT


def test_a_layer_in_no_repository_is_missing_and_the_number_checked_is_reported(
    quiet_registry: Registry, http: HttpClient
) -> None:
    source = source_of(http, quiet_registry.netloc, candidates=["other", "missing", "other"])

    with pytest.raises(NotFound, match="the 2 repositories searched"):
        source.size(LAYER)


def test_a_layer_that_moved_is_searched_again(http: HttpClient) -> None:
    with start_http_server() as server:
        blob = {"Content-Length": str(len(CONTENT))}
        server.on("/v2/old/blobs/*", in_turn(replying(200, CONTENT, blob), replying(404)))
        server.on("/v2/new/blobs/*", replying(200, CONTENT, blob))
        source = source_of(http, server.netloc, candidates=["old", "new"])

        assert source.size(LAYER) == len(CONTENT)
        assert read(source, LAYER) == CONTENT
        assert server.requests[-1].path.startswith("/v2/new/")


def test_invalid_scopes_are_skipped(quiet_registry: Registry, http: HttpClient) -> None:
    source = source_of(http, quiet_registry.netloc)

    assert source.size(known_in("../../etc", "UPPER", "", "team/app")) == len(CONTENT)


def test_a_forbidden_repository_is_skipped(tmp_path: Path, http: HttpClient) -> None:
    users = {"brewer": User("right", {"open/*": {"pull"}})}
    with (
        start_token_server(tmp_path, users) as tokens,
        start_registry(tmp_path / "registry", token=tokens.registry_auth()) as registry,
    ):
        for scope in ("closed/app", "open/app"):
            rights = {"type": "repository", "name": scope, "actions": ["pull", "push"]}
            push_blob(registry, scope, CONTENT, auth=Bearer(tokens.token("owner", [rights])))
        source = source_of(http, registry.netloc, user="brewer", password="right")

        assert read(source, known_in("closed/app", "open/app")) == CONTENT
        with pytest.raises(Refused, match="closed/app"):
            source.size(replace(layer_of(b"another"), scopes=("closed/app",)))


def test_a_refused_catalog_is_reported(http: HttpClient) -> None:
    with start_http_server() as server:
        server.on("/v2/_catalog", replying(401))
        client = RegistryClient(DockerRegistry(host=server.netloc, proto="http"), http)

        with pytest.raises(Refused, match="_catalog"):
            RegistryBlobs(client, client.list_repositories).size(LAYER)


def test_a_registry_that_states_no_size_is_read_by_that_of_the_descriptor(http: HttpClient) -> None:
    with start_http_server() as server:
        server.on("/v2/team/app/blobs/*", sending(b"HTTP/1.1 200 OK\r\n\r\n" + CONTENT))
        source = source_of(http, server.netloc)

        assert source.size(replace(known_in("team/app"), size=len(CONTENT))) == len(CONTENT)
        assert read(source, known_in("team/app")) == CONTENT
        with pytest.raises(BadAnswer, match="does not state its size"):
            source.size(replace(known_in("team/app"), size=None))


@pytest.mark.parametrize("answer", [replying(500), replying(429), html(200), html(404)])
def test_a_failing_registry_is_retried_later(http: HttpClient, answer: Answer) -> None:
    with start_http_server() as server:
        server.on("/*", answer)
        source = source_of(http, server.netloc)

        with pytest.raises((Unavailable, BadAnswer)):
            source.size(known_in("team/app", "team/base"))
        with pytest.raises((Unavailable, BadAnswer)):
            source.open(known_in("team/app"), 0)
        with pytest.raises((Unavailable, BadAnswer)):
            source.check()


def test_a_registry_that_never_answers_is_a_time_out() -> None:
    with start_http_server() as server, HttpClient(2.0, 0.5) as http:
        server.on("/*", silent())

        with pytest.raises(TimedOut):
            source_of(http, server.netloc).size(known_in("team/app"))
