"""Unusual and invalid answers of a registry."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from core.digest import Digest
from core.errors import (
    BadAnswer,
    ConnectionCut,
    NotFound,
    RangeIgnored,
    Refused,
    RemoteError,
    TimedOut,
    Unavailable,
)
from core.manifests.manifest import digest_of
from core.manifests.media_types import DOCKER_SCHEMA1_SIGNED, OCI_MANIFEST
from core.registry.client import MANIFEST_LIMIT, RegistryClient
from tests.registry_clients import SILENCE_SECONDS, client_of, read_blob
from tests.servers import bad_http
from tests.servers.http_server import Answer, Connection, HttpServer, Request, start_http_server

DIGEST = Digest("ab" * 32)
MANIFEST = b'{"schemaVersion": 2}'
JSON = {"Content-Type": "application/json"}

ASKING: dict[str, Callable[[RegistryClient], object]] = {
    "a manifest": lambda client: client.fetch_manifest("a", "b"),
    "a tag's digest": lambda client: client.head_manifest("a", "b"),
    "tags": lambda client: list(client.list_tags("a")),
    "repositories": lambda client: list(client.list_repositories()),
    "a blob": lambda client: client.open_blob("a", DIGEST),
    "a blob's size": lambda client: client.blob_size("a", DIGEST),
    "an answer": lambda client: client.ping(),
}


@pytest.fixture
def registry() -> Iterator[HttpServer]:
    with start_http_server() as server:
        yield server


@pytest.fixture
def client(registry: HttpServer) -> Iterator[RegistryClient]:
    with client_of(registry.netloc) as running:
        yield running


@contextmanager
def client_that_gets(error: type[RemoteError], netloc: str) -> Iterator[RegistryClient]:
    """Yield a client with a short time-out if it is to time out."""
    seconds = SILENCE_SECONDS if error is TimedOut else 60.0
    with client_of(netloc, read_timeout=seconds, catalog_timeout=seconds) as running:
        yield running


def errors(code: str) -> bytes:
    return json.dumps({"errors": [{"code": code, "message": "of the registry"}]}).encode()


@pytest.mark.parametrize("what", ASKING)
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (bad_http.replying(401, errors("UNAUTHORIZED"), JSON), Refused),
        (bad_http.replying(403, errors("DENIED"), JSON), Refused),
        (bad_http.replying(400, errors("NAME_INVALID"), JSON), Refused),
        (bad_http.replying(500, errors("UNKNOWN"), JSON), Unavailable),
        (bad_http.html(502), Unavailable),
        (bad_http.html(200), BadAnswer),
        (bad_http.html(404), BadAnswer),
        (bad_http.replying(204), BadAnswer),
        (bad_http.replying(206, b"{}"), BadAnswer),
        (bad_http.replying(304), BadAnswer),
        (bad_http.redirecting("/v2/loop"), BadAnswer),
        (bad_http.redirecting("gopher://a/"), BadAnswer),
        (bad_http.sending(b"SSH-2.0-OpenSSH\r\n"), BadAnswer),
        (bad_http.endless_head(), BadAnswer),
        (bad_http.silent(), TimedOut),
        (bad_http.hanging_up(), ConnectionCut),
        (bad_http.hanging_up(reset=True), ConnectionCut),
    ],
)
def test_a_bad_answer_is_named_in_the_message(
    registry: HttpServer, what: str, answer: Answer, error: type[RemoteError]
) -> None:
    registry.on("/*", answer)
    with client_that_gets(error, registry.netloc) as client, pytest.raises(error) as caught:
        ASKING[what](client)
    assert registry.netloc in str(caught.value)


@pytest.mark.parametrize("what", ASKING)
def test_retry_after_is_kept(registry: HttpServer, client: RegistryClient, what: str) -> None:
    registry.on("/*", bad_http.replying(429, errors("TOOMANYREQUESTS"), {"Retry-After": "7"}))
    with pytest.raises(Unavailable, match="status 429") as caught:
        ASKING[what](client)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("what", [what for what in ASKING if what != "repositories"])
def test_a_missing_path(registry: HttpServer, client: RegistryClient, what: str) -> None:
    registry.on("/*", bad_http.replying(404, errors("MANIFEST_UNKNOWN"), JSON))
    with pytest.raises(NotFound):
        ASKING[what](client)


def test_a_catalog_may_take_longer_than_other_answers(registry: HttpServer) -> None:
    def slow(request: Request, connection: Connection) -> None:
        connection.pause(0.5)
        connection.reply(200, b'{"repositories": ["a"]}')

    registry.on("/v2/_catalog", slow)
    registry.on("/v2/a/tags/list", bad_http.silent())
    with client_of(registry.netloc, read_timeout=0.1, catalog_timeout=60.0) as client:
        assert list(client.list_repositories()) == ["a"]
        with pytest.raises(TimedOut):
            list(client.list_tags("a"))


@pytest.mark.parametrize("status", [401, 404, 405])
def test_a_catalog_that_is_withheld(registry: HttpServer, client: RegistryClient, status: int) -> None:
    registry.on("/v2/_catalog", bad_http.replying(status, errors("UNSUPPORTED"), JSON))
    with pytest.raises(Refused) as caught:
        list(client.list_repositories())
    assert caught.value.status == status
    assert "_catalog" in str(caught.value)
    registry.on("/v2/a/tags/list", bad_http.replying(200, b'{"tags": ["b"]}', JSON))
    assert list(client.list_tags("a")) == ["b"]


@pytest.mark.parametrize("what", ["a manifest", "tags", "repositories"])
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (bad_http.serving(MANIFEST, cut_after=3), ConnectionCut),
        (bad_http.dripping(b"{" + b" " * 1000 + b"}", size=1, seconds=0.05), TimedOut),
        (bad_http.replying(200, MANIFEST, {"Content-Encoding": "gzip"}), BadAnswer),
        (bad_http.misstating_length(b"", 10**12), BadAnswer),
    ],
)
def test_a_bad_body_is_named_in_the_message(
    registry: HttpServer, what: str, answer: Answer, error: type[RemoteError]
) -> None:
    registry.on("/*", answer)
    with client_that_gets(error, registry.netloc) as client, pytest.raises(error):
        ASKING[what](client)


class TestAManifest:
    def test_is_not_longer_than_a_registry_accepts(
        self, registry: HttpServer, client: RegistryClient
    ) -> None:
        longest = b" " * MANIFEST_LIMIT
        registry.on("/v2/a/manifests/longest", bad_http.replying(200, longest))
        registry.on("/v2/a/manifests/longer", bad_http.replying(200, longest + b" "))
        registry.on("/v2/a/manifests/endless", bad_http.endless())
        assert client.fetch_manifest("a", "longest").body == longest
        for tag in ("longer", "endless"):
            with pytest.raises(BadAnswer, match=r"bytes"):
                client.fetch_manifest("a", tag)

    def test_must_have_the_digest_in_the_header(self, registry: HttpServer, client: RegistryClient) -> None:
        registry.on(
            "/v2/a/manifests/*", bad_http.replying(200, MANIFEST, {"Docker-Content-Digest": str(DIGEST)})
        )
        for reference in ("b", DIGEST):
            with pytest.raises(BadAnswer, match=f"not {DIGEST}"):
                client.fetch_manifest("a", reference)

    @pytest.mark.parametrize(
        "said", [{}, {"Docker-Content-Digest": "sha512:abc"}, {"Docker-Content-Digest": ""}]
    )
    def test_has_its_digest_computed_where_the_header_is_absent(
        self, registry: HttpServer, client: RegistryClient, said: dict[str, str]
    ) -> None:
        registry.on(
            "/v2/a/manifests/b", bad_http.replying(200, MANIFEST, {"Content-Type": OCI_MANIFEST, **said})
        )
        assert client.fetch_manifest("a", "b").digest == digest_of(MANIFEST)
        assert client.head_manifest("a", "b") == digest_of(MANIFEST)
        assert [request.method for request in registry.requests] == ["GET", "HEAD", "GET"]

    def test_may_be_of_a_registry_without_head(self, registry: HttpServer, client: RegistryClient) -> None:
        registry.on("/v2/a/*", bad_http.in_turn(bad_http.replying(405), bad_http.replying(200, MANIFEST)))
        assert client.head_manifest("a", "b") == digest_of(MANIFEST)

    def test_of_schema_1_has_a_digest_without_its_signatures(
        self, registry: HttpServer, client: RegistryClient
    ) -> None:
        headers = {"Content-Type": DOCKER_SCHEMA1_SIGNED, "Docker-Content-Digest": str(DIGEST)}
        registry.on("/v2/a/manifests/*", bad_http.replying(200, b'{"schemaVersion": 1}', headers))
        assert client.fetch_manifest("a", "b").digest == DIGEST
        assert client.fetch_manifest("a", DIGEST).media_type == DOCKER_SCHEMA1_SIGNED


class TestABlob:
    PATH = f"/v2/a/blobs/{DIGEST}"

    def test_that_is_truncated_is_detected(self, registry: HttpServer, client: RegistryClient) -> None:
        registry.on(self.PATH, bad_http.serving(b"x" * 1000, cut_after=100))
        with pytest.raises(ConnectionCut) as caught:
            read_blob(client.open_blob("a", DIGEST))
        assert caught.value.offset == 100

    def test_that_falls_silent_is_detected(self, registry: HttpServer) -> None:
        registry.on(self.PATH, bad_http.dripping(b"x" * 1000, size=100, seconds=600))
        with client_that_gets(TimedOut, registry.netloc) as client, pytest.raises(TimedOut):
            read_blob(client.open_blob("a", DIGEST))

    def test_is_refused_from_another_offset_than_requested(
        self, registry: HttpServer, client: RegistryClient
    ) -> None:
        registry.on(self.PATH, bad_http.serving(b"x" * 1000, ranges=False))
        for offset, length in ((5, None), (5, 10), (0, 10)):
            with pytest.raises(RangeIgnored):
                client.open_blob("a", DIGEST, offset, length)

    @pytest.mark.parametrize(
        "said",
        [
            None,
            "",
            "bytes",
            "bytes 0-9/1000",
            "bytes 6-14/1000",
            "bytes 5-15/1000",
            "bytes 5-14/14",
            "bytes 5-4/1000",
            "bytes 5-12/1000",
            "bytes */1000",
            "bytes 5-14/-1",
            "lines 5-14/1000",
            "bytes 5-14/1000, bytes 5-14/1000",
            "bytes 5-14/" + "9" * 5000,
        ],
    )
    def test_is_refused_in_an_impossible_range(
        self, registry: HttpServer, client: RegistryClient, said: str | None
    ) -> None:
        headers = {} if said is None else {"Content-Range": said}
        registry.on(self.PATH, bad_http.replying(206, b"x" * 10, headers))
        with pytest.raises(BadAnswer):
            client.open_blob("a", DIGEST, 5, 10)

    @pytest.mark.parametrize(("said", "size"), [("bytes 5-14/1000", 1000), ("bytes 5-14/*", None)])
    def test_may_come_in_a_range_without_its_size(
        self, registry: HttpServer, client: RegistryClient, said: str, size: int | None
    ) -> None:
        registry.on(self.PATH, bad_http.replying(206, b"x" * 10, {"Content-Range": said}))
        with client.open_blob("a", DIGEST, 5, 10) as stream:
            assert stream.size == size

    def test_has_its_size_from_get_where_head_lacks_it(
        self, registry: HttpServer, client: RegistryClient
    ) -> None:
        registry.on(self.PATH, bad_http.in_turn(bad_http.replying(501), bad_http.replying(200, b"x" * 10)))
        assert client.blob_size("a", DIGEST) == 10
        headless = bad_http.sending(b"HTTP/1.1 200 OK\r\n\r\n")
        registry.on(self.PATH, bad_http.in_turn(headless, bad_http.replying(200, b"x" * 10)))
        assert client.blob_size("a", DIGEST) == 10
        registry.on(self.PATH, bad_http.in_turn(bad_http.replying(200), bad_http.replying(200, b"x" * 10)))
        assert client.blob_size("a", DIGEST) == 10

    def test_has_its_size_from_a_range_where_get_lacks_it(
        self, registry: HttpServer, client: RegistryClient
    ) -> None:
        unsized = bad_http.sending(b"HTTP/1.1 200 OK\r\n\r\nxxxxxxxxxx")
        first = bad_http.replying(206, b"x", {"Content-Range": "bytes 0-0/10"})
        registry.on(self.PATH, bad_http.in_turn(unsized, unsized, first))
        assert client.blob_size("a", DIGEST) == 10
        registry.on(self.PATH, unsized)
        assert client.blob_size("a", DIGEST) is None
