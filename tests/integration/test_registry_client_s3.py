"""Blobs of a registry that stores them in S3 and redirects readers there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.digest import Digest
from core.errors import NotFound, Unavailable
from tests.registry_clients import client_of, read_blob
from tests.servers import bad_http
from tests.servers.http_server import HttpServer, start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.moto import Moto
from tests.servers.push import push_blob, push_image
from tests.servers.registry import Registry, start_registry

SCOPE = "team/app"
CONTENT = layer_bytes(400_000)
BREWER = ("brewer", "pass word")


@pytest.fixture
def in_s3(moto: Moto, bucket: str, tmp_path: Path) -> Iterator[Registry]:
    """A registry with htpasswd whose storage is a bucket."""
    storage = moto.registry_storage(bucket)
    with start_registry(tmp_path, s3=storage, htpasswd=dict([BREWER])) as server:
        yield server


def test_an_image_is_read_through_redirects(in_s3: Registry) -> None:
    image = push_image(in_s3, SCOPE, "latest", [CONTENT], auth=BREWER)
    digest = Digest.parse(image.layers[0].digest)
    with client_of(in_s3.netloc, *BREWER) as client:
        assert client.fetch_manifest(SCOPE, "latest").body == image.manifest
        assert list(client.list_tags(SCOPE)) == ["latest"]
        assert client.blob_size(SCOPE, digest) == len(CONTENT)
        assert read_blob(client.open_blob(SCOPE, digest)) == CONTENT
        part = client.open_blob(SCOPE, digest, 100_000, 50_000)
        assert part.size == len(CONTENT)
        assert read_blob(part) == CONTENT[100_000:150_000]
    redirects = [path for _, path, status in in_s3.requests() if status == 307]
    assert len(redirects) == 3


def test_each_read_requests_a_new_redirect(in_s3: Registry) -> None:
    digest = Digest.parse(push_blob(in_s3, SCOPE, CONTENT, auth=BREWER).digest)
    with client_of(in_s3.netloc, *BREWER) as client:
        for _ in range(3):
            client.open_blob(SCOPE, digest).close()
    path = f"/v2/{SCOPE}/blobs/{digest}"
    assert [status for _, asked, status in in_s3.requests() if asked == path].count(307) == 3


def test_a_registry_may_proxy_the_bytes(moto: Moto, bucket: str, tmp_path: Path) -> None:
    storage = moto.registry_storage(bucket)
    with (
        start_registry(tmp_path, s3=storage, redirect=False) as registry,
        client_of(registry.netloc) as client,
    ):
        digest = Digest.parse(push_blob(registry, SCOPE, CONTENT).digest)
        assert read_blob(client.open_blob(SCOPE, digest, 399_000)) == CONTENT[399_000:]
        assert registry.requests()[-1][2] == 206


@pytest.fixture
def gate() -> Iterator[HttpServer]:
    """A stand-in for a registry in front of storage, which records requests."""
    with start_http_server() as server:
        yield server


@pytest.fixture
def s3() -> Iterator[HttpServer]:
    """A storage that records requests."""
    with start_http_server() as server:
        yield server


DIGEST = Digest("ab" * 32)
PATH = f"/v2/{SCOPE}/blobs/{DIGEST}"


def guard(gate: HttpServer, to: str, status: int = 307) -> None:
    """Make the gate require a password, and then redirect to `to`."""
    asking = bad_http.replying(401, headers={"WWW-Authenticate": 'Basic realm="a"'})
    leading = bad_http.redirecting(to, status)

    def answer(request: bad_http.Request, connection: bad_http.Connection) -> None:
        (leading if "Authorization" in request.headers else asking)(request, connection)

    gate.on(PATH, answer)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_the_storage_never_gets_the_credentials(gate: HttpServer, s3: HttpServer, status: int) -> None:
    guard(gate, f"{s3.url}/bucket/key?X-Amz-Signature=abc", status)
    s3.on("/bucket/key", bad_http.serving(CONTENT))
    with client_of(gate.netloc, *BREWER) as client:
        assert client.blob_size(SCOPE, DIGEST) == len(CONTENT)
        assert read_blob(client.open_blob(SCOPE, DIGEST)) == CONTENT
        assert read_blob(client.open_blob(SCOPE, DIGEST, 7, 100)) == CONTENT[7:107]
    assert [request.method for request in s3.requests] == ["HEAD", "GET", "GET"]
    assert all(request.query == {"X-Amz-Signature": ["abc"]} for request in s3.requests)
    assert all("Authorization" not in request.headers for request in s3.requests)
    assert s3.requests[2].headers["Range"] == "bytes=7-106"
    assert gate.requests[-1].headers["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("status", [401, 403])
def test_an_expired_url_is_retried(gate: HttpServer, s3: HttpServer, status: int) -> None:
    guard(gate, f"{s3.url}/bucket/key?X-Amz-Signature=secret")
    s3.on("/bucket/key", bad_http.replying(status, b"<Error><Code>AccessDenied</Code></Error>"))
    with client_of(gate.netloc, *BREWER) as client:
        for ask in (client.open_blob, client.blob_size):
            with pytest.raises(Unavailable, match=f"storage answers {status}") as caught:
                ask(SCOPE, DIGEST)
            assert not caught.value.permanent
            assert "secret" not in str(caught.value)


def test_a_blob_that_the_storage_lost_is_missing(gate: HttpServer, s3: HttpServer) -> None:
    guard(gate, f"{s3.url}/bucket/key")
    missing = b"<Error><Code>NoSuchKey</Code></Error>"
    s3.on("/bucket/key", bad_http.replying(404, missing, {"Content-Type": "application/xml"}))
    with client_of(gate.netloc, *BREWER) as client, pytest.raises(NotFound):
        client.open_blob(SCOPE, DIGEST)
