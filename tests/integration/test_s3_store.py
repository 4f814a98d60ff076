"""The S3 store: object keys, and errors for failures of S3."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from core.digest import Digest
from core.errors import MetainfoMissing, Refused, StoreFailed
from core.s3 import Bucket, s3_client
from core.torrents.store import MOST, S3Store
from tests.servers.bad_http import endless, html, misstating_length, replying, silent
from tests.servers.http_server import Answer, Connection, HttpServer, Request
from tests.servers.moto import Moto
from tests.servers.process import free_port

DIGEST = Digest("ab" * 32)
SECRET = "a-secret-that-nobody-may-read"
READ_TIMEOUT = 2.0


@pytest.fixture
def store_at() -> Iterator[Callable[[str, str], S3Store]]:
    """A function that creates a store."""
    with ExitStack() as clients:

        def make(endpoint: str, bucket: str) -> S3Store:
            client = s3_client(endpoint, "us-east-1", "tests", SECRET, 2.0, READ_TIMEOUT)
            clients.enter_context(closing(client))
            return S3Store(Bucket(client, bucket), "torrents/")

        yield make


def answers_everything(server: HttpServer, answer: Answer) -> None:
    for path in (f"/bucket/torrents/ab/{DIGEST.hex}.torrent", "/bucket/torrents/*", "/bucket"):
        server.on(path, answer)


def error_body(code: str, message: str) -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def test_a_layers_metainfo_is_an_object_named_after_it(
    moto: Moto, bucket: str, store_at: Callable[[str, str], S3Store]
) -> None:
    store = store_at(moto.endpoint, bucket)
    store.put(DIGEST, b"d4:infodee")
    store.check()
    with moto.client() as client:
        listed = client.list_objects_v2(Bucket=bucket)["Contents"]
        assert [entry["Key"] for entry in listed] == [f"torrents/ab/{DIGEST.hex}.torrent"]
        kept = client.get_object(Bucket=bucket, Key=listed[0]["Key"])
        assert kept["ContentType"] == "application/x-bittorrent"
        assert kept["Body"].read() == b"d4:infodee"


def test_a_missing_bucket_is_a_failure_not_missing_metainfo(
    moto: Moto, store_at: Callable[[str, str], S3Store]
) -> None:
    store = store_at(moto.endpoint, "no-such-bucket")
    for call in calls(store):
        with pytest.raises(StoreFailed, match="no such bucket"):
            call()


def test_an_unreachable_server_is_a_failure(store_at: Callable[[str, str], S3Store]) -> None:
    store = store_at(f"http://127.0.0.1:{free_port()}", "bucket")
    for call in calls(store):
        with pytest.raises(StoreFailed, match="connect"):
            call()


def test_a_silent_server_costs_two_time_outs(
    server: HttpServer, store_at: Callable[[str, str], S3Store]
) -> None:
    answers_everything(server, silent())
    with pytest.raises(StoreFailed, match="timed out") as caught:
        store_at(server.url, "bucket").get(DIGEST)
    assert len(server.requests) == 2
    assert not caught.value.permanent


def test_a_server_may_answer_404_when_an_absent_object_is_deleted(
    server: HttpServer, store_at: Callable[[str, str], S3Store]
) -> None:
    answers_everything(server, replying(404, error_body("NoSuchKey", "The specified key does not exist.")))
    store_at(server.url, "bucket").delete(DIGEST)
    assert server.requests[-1].method == "DELETE"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (replying(403, error_body("AccessDenied", "Access Denied")), "AccessDenied: Access Denied"),
        (replying(403, error_body("SignatureDoesNotMatch", "Check your key")), "SignatureDoesNotMatch"),
        (replying(500, error_body("InternalError", "We encountered an error")), "InternalError"),
        (replying(503, error_body("SlowDown", "Reduce your request rate")), "SlowDown"),
        (html(502), "502"),
    ],
    ids=["no access", "wrong key", "internal error", "too many requests", "a proxy's page"],
)
def test_an_error_answer_is_quoted(
    server: HttpServer, store_at: Callable[[str, str], S3Store], answer: Answer, why: str
) -> None:
    answers_everything(server, answer)
    store = store_at(server.url, "bucket")
    for call in calls(store):
        with pytest.raises(StoreFailed, match=why) as caught:
            call()
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "code",
    ["SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "RequestTimeTooSkewed", "AccessDenied"],
)
def test_wrong_credentials_are_not_a_missing_permission(server: HttpServer, code: str) -> None:
    answers_everything(server, replying(403, error_body(code, "says S3")))
    with (
        closing(s3_client(server.url, "us-east-1", "tests", SECRET, 2.0, READ_TIMEOUT)) as client,
        pytest.raises(Refused, match=code) as caught,
    ):
        Bucket(client, "bucket").check()
    assert caught.value.status == (403 if code == "AccessDenied" else 401)


def test_truncated_metainfo_is_a_failure(server: HttpServer, store_at: Callable[[str, str], S3Store]) -> None:
    answers_everything(server, misstating_length(b"d4:inf", stated=1000))
    with pytest.raises(StoreFailed):
        store_at(server.url, "bucket").get(DIGEST)


def test_an_endless_object_is_abandoned_at_the_limit_of_metainfo(
    server: HttpServer, store_at: Callable[[str, str], S3Store]
) -> None:
    answers_everything(server, endless())
    with pytest.raises(StoreFailed, match=f"longer than {MOST} bytes"):
        store_at(server.url, "bucket").get(DIGEST)


def calls(store: S3Store) -> list[Callable[[], object]]:
    return [
        lambda: store.put(DIGEST, b"d4:infodee"),
        lambda: store.get(DIGEST),
        lambda: store.delete(DIGEST),
        store.check,
    ]


class LimitedS3:
    """An S3 with limited permissions: without permission to list, missing objects are refused (403)."""

    def __init__(self, permissions: set[str]) -> None:
        self.permissions = permissions
        self.objects: dict[str, bytes] = {}

    def __call__(self, request: Request, connection: Connection) -> None:
        self._answer(request)(request, connection)

    def _answer(self, request: Request) -> Answer:
        operation = {"GET": "GetObject", "PUT": "PutObject", "DELETE": "DeleteObject"}[request.method]
        if request.path == "/bucket":
            operation = "ListBucket"
        if operation not in self.permissions:
            return replying(403, error_body("AccessDenied", "Access Denied"))
        if operation == "ListBucket":
            listed = b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"
            return replying(200, listed, {"Content-Type": "application/xml"})
        if operation == "PutObject":
            self.objects[request.path] = request.body
            return replying(200, b"")
        if operation == "DeleteObject":
            self.objects.pop(request.path, None)
            return replying(204, b"")
        if request.path in self.objects:
            return replying(200, self.objects[request.path])
        if "ListBucket" in self.permissions:
            return replying(404, error_body("NoSuchKey", "The specified key does not exist."))
        return replying(403, error_body("AccessDenied", "Access Denied"))


ALL_PERMISSIONS = {"GetObject", "PutObject", "DeleteObject", "ListBucket"}


@pytest.fixture
def limited(server: HttpServer) -> LimitedS3:
    limited = LimitedS3(set(ALL_PERMISSIONS))
    server.on("/bucket", limited)
    server.on("/bucket/*", limited)
    return limited


@pytest.mark.parametrize("listing", [True, False], ids=["with ListBucket", "without ListBucket"])
def test_reading_does_not_require_permission_to_list(
    server: HttpServer, limited: LimitedS3, store_at: Callable[[str, str], S3Store], listing: bool
) -> None:
    if not listing:
        limited.permissions.remove("ListBucket")
    store = store_at(server.url, "bucket")
    store.put(DIGEST, b"d4:infodee")
    assert store.get(DIGEST) == b"d4:infodee"
    with pytest.raises(MetainfoMissing):
        store.get(Digest("cd" * 32))
    assert "takes metainfo" in store.check()
    assert ("s3:ListBucket" in store.check()) is not listing
    assert [path.rpartition("/")[2] for path in limited.objects] == [f"{DIGEST.hex}.torrent"]


@pytest.mark.parametrize("permission", ["GetObject", "PutObject", "DeleteObject"])
def test_a_missing_permission_is_reported_not_taken_for_missing_metainfo(
    server: HttpServer, limited: LimitedS3, store_at: Callable[[str, str], S3Store], permission: str
) -> None:
    store = store_at(server.url, "bucket")
    limited.permissions -= {permission, "ListBucket"}

    with pytest.raises(StoreFailed, match=f"needs s3:{permission}"):
        store.check()
    with pytest.raises(StoreFailed, match="needs s3:GetObject"):
        store.get(DIGEST)
