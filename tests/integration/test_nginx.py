"""deploy/nginx.conf in a real nginx: routing, callers' addresses, and pushes."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests

from core.manifests.media_types import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.nginx_front import nginx_front
from tests.servers.bad_http import hanging_up, misstating_length, replying, sending
from tests.servers.blackbox import Account, start_blackbox
from tests.servers.http_server import Answer, HttpServer, start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.nginx import Nginx
from tests.servers.process import free_port
from tests.servers.push import push_image
from tests.servers.registry import Registry, TokenAuth, start_registry
from tests.servers.token_server import start_token_server
from tests.servers.waiting import comes_true
from tests.web_manifests import brew, image_of, rbtorrent
from tests.web_server import Front, front_of, served

DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def both() -> Iterator[dict[str, HttpServer]]:
    """Two servers that answer with their name."""
    with start_http_server() as app, start_http_server() as registry:
        app.on("/*", replying(200, b"app"))
        registry.on("/*", replying(200, b"registry"))
        yield {"app": app, "registry": registry}


@pytest.fixture
def signpost(both: dict[str, HttpServer], tmp_path: Path) -> Iterator[Nginx]:
    with nginx_front(tmp_path, registry=both["registry"].netloc, app=both["app"].netloc) as nginx:
        yield nginx


@pytest.fixture
def front(registry: Registry, tmp_path: Path) -> Iterator[Front]:
    with front_of(registry.netloc, tmp_path / "front") as front:
        yield front


@pytest.fixture
def nginx(registry: Registry, front: Front, tmp_path: Path) -> Iterator[Nginx]:
    with (
        served(front) as app,
        nginx_front(tmp_path / "nginx", registry=registry.netloc, app=app) as nginx,
    ):
        yield nginx


@pytest.mark.parametrize(
    ("method", "path", "where"),
    [
        ("GET", "/v2/", "app"),
        ("HEAD", "/v2/", "app"),
        ("GET", "/v2/ubuntu/manifests/precise", "app"),
        ("HEAD", "/v2/team/app/manifests/precise", "app"),
        ("GET", f"/v2/a/b/c/manifests/{DIGEST}?ns=docker.io", "app"),
        ("GET", "/v2/manifests/manifests/manifests", "app"),
        ("GET", "/v2/team%2Fapp/manifests/precise", "app"),
        ("PUT", "/v2/ubuntu/manifests/precise", "registry"),
        ("DELETE", f"/v2/ubuntu/manifests/{DIGEST}", "registry"),
        ("GET", f"/v2/ubuntu/blobs/{DIGEST}", "registry"),
        ("HEAD", f"/v2/ubuntu/blobs/{DIGEST}", "registry"),
        ("POST", "/v2/ubuntu/blobs/uploads/", "registry"),
        ("PATCH", "/v2/ubuntu/blobs/uploads/1?_state=x", "registry"),
        ("PUT", f"/v2/manifests/blobs/uploads/1?digest={DIGEST}", "registry"),
        ("GET", "/v2/ubuntu/tags/list?n=5", "registry"),
        ("GET", "/v2/_catalog", "registry"),
        ("GET", "/v2/manifests/tags/list", "registry"),
        ("POST", "/v0/event", "app"),
        ("GET", f"/v0/torrents/team/app/{DIGEST}", "app"),
        ("GET", "/v0/layers/capability/" + "a" * 64, "app"),
    ],
)
def test_each_request_is_routed_unchanged(
    signpost: Nginx,
    both: dict[str, HttpServer],
    session: requests.Session,
    method: str,
    path: str,
    where: str,
) -> None:
    session.request(method, signpost.url + path, timeout=60)
    (request,) = both[where].requests
    assert (request.method, request.path) == (method, path.partition("?")[0])
    assert all(not server.requests for name, server in both.items() if name != where)


@pytest.mark.parametrize("path", ["/v2/a/manifests/b", "/v2/a/blobs/b", "/v0/event"])
def test_the_callers_address_is_that_of_the_connection(
    signpost: Nginx, both: dict[str, HttpServer], session: requests.Session, path: str
) -> None:
    said = {"X-Real-IP": "203.0.113.9", "X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "gopher"}
    session.get(signpost.url + path, headers=said, timeout=60)
    (request,) = [request for server in both.values() for request in server.requests]
    assert request.headers.get_all("X-Real-IP") == ["127.0.0.1"]
    assert request.headers.get_all("X-Forwarded-For") == ["203.0.113.9, 127.0.0.1"]
    assert request.headers.get_all("X-Forwarded-Proto") == ["http"]
    assert request.headers.get_all("Host") == [f"127.0.0.1:{signpost.port}"]


@pytest.mark.parametrize(("path", "status"), [("/v0/event", 413), ("/v2/a/blobs/uploads/1", 200)])
def test_only_requests_to_the_app_have_a_limit(signpost: Nginx, path: str, status: int) -> None:
    with socket.create_connection((signpost.host, signpost.port), timeout=60) as client:
        size = 41 * 1024 * 1024 + 1
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n".encode())
        if status == 200:
            for _ in range(size // 1024):
                client.sendall(b" " * 1024)
            client.sendall(b" " * (size % 1024))
        assert client.recv(12) == f"HTTP/1.1 {status}".encode()


@pytest.mark.parametrize(
    "head",
    [
        "GET /v2/ HTTP/1.1\r\nHost: a\r\nHost: b",
        "GET /v2/ HTTP/1.1",
        "POST /v0/event HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked",
    ],
)
def test_nginx_refuses_requests_that_granian_accepts(
    signpost: Nginx, both: dict[str, HttpServer], head: str
) -> None:
    with socket.create_connection((signpost.host, signpost.port), timeout=60) as client:
        client.sendall(f"{head}\r\n\r\n".encode())
        assert client.recv(12) == b"HTTP/1.1 400"
    assert all(not server.requests for server in both.values())


def test_idle_connections_to_nginx_delay_no_other(nginx: Nginx, session: requests.Session) -> None:
    with ExitStack() as idle:
        for _ in range(1000):
            client = idle.enter_context(socket.create_connection((nginx.host, nginx.port), timeout=60))
            client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: a\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 200"
        assert session.get(f"{nginx.url}/v2/", timeout=60).status_code == 200


def test_nginx_ends_a_connection_whose_head_drips(both: dict[str, HttpServer], tmp_path: Path) -> None:
    app = both["app"].netloc
    with (
        nginx_front(tmp_path, registry=app, app=app, header_timeout="500ms") as nginx,
        socket.create_connection((nginx.host, nginx.port), timeout=60) as client,
    ):
        client.sendall(b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        # Each byte comes long before the time-out, which is for the whole head.
        while not select.select([client], [], [], 0.05)[0]:
            client.sendall(b"x")
        with suppress(ConnectionResetError):
            assert client.recv(1000) == b""
    assert not both["app"].requests


def test_half_a_notification_does_not_reach_the_app(signpost: Nginx, both: dict[str, HttpServer]) -> None:
    with socket.create_connection((signpost.host, signpost.port), timeout=60) as client:
        client.sendall(b"POST /v0/event HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n12")
        # From the registry: after it, nginx has handled the half.
        requests.get(f"{signpost.url}/v2/_catalog", timeout=60)
        assert not [one for one in threading.enumerate() if one.name == f"serve-{both['app'].port}"]
        client.sendall(b"34")
        assert client.recv(12).startswith(b"HTTP/1.1 ")
    assert [one.body for server in both.values() for one in server.requests_of("/v0/event")] == [b"1234"]


CAPABILITY = "c2VjcmV0"
LAYER = f"/v0/layers/{CAPABILITY}/{'a' * 64}"
REQUESTS = [
    f"GET {LAYER} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    f"GET //v0/./%6cayers/{CAPABILITY}/x?a=b HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    f"GET {LAYER} HTTP/1.1\r\n\r\n",
    f"GET {LAYER} HTTP/1.1\r\nHost: a\r\nX-Long: {'x' * 40_000}\r\n\r\n",
    f"GET {LAYER}{'a' * 40_000} HTTP/1.1\r\nHost: a\r\n\r\n",
    f"GET {LAYER} HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
]
LEAVING = [f"GET {LAYER} HTTP/1.1\r\nHost: a\r\n\r\n", f"GET {LAYER} HTTP/1.1\r\nHo"]


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (replying(200, b"x" * 10_000_000), False),
        (replying(404), False),
        (hanging_up(), True),
        (misstating_length(b"short", 1_000_000), True),
        (sending(b"HTTP/1.1 nothing\r\n\r\n"), True),
        (None, True),
    ],
    ids=["a layer", "no layer", "nothing", "half of it", "nonsense", "app away"],
)
def test_no_capability_is_in_any_log(
    both: dict[str, HttpServer], tmp_path: Path, answer: Answer | None, trouble: bool
) -> None:
    app = both["app"].netloc if answer else f"127.0.0.1:{free_port()}"
    both["app"].on("/v0/*", answer or replying(500))
    with nginx_front(tmp_path, registry=both["registry"].netloc, app=app) as nginx:
        event = "GET /v0/event HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        for request in [*REQUESTS, *LEAVING, event]:
            with socket.create_connection((nginx.host, nginx.port), timeout=60) as client:
                client.sendall(request.encode())
                with suppress(ConnectionError):
                    while request not in LEAVING and client.recv(1 << 16):
                        pass
        assert comes_true(lambda: any(one.path == "/v0/event" for one in nginx.requests()))
    access, errors = ((tmp_path / name).read_text() for name in ("access.log", "error.log"))
    assert ("/v0/event" in errors) == trouble
    assert CAPABILITY not in access
    assert CAPABILITY not in errors


def test_an_image_is_pushed_through_it_and_pulled_with_ids(
    nginx: Nginx, registry: Registry, front: Front, session: requests.Session, scope: str
) -> None:
    image = push_image(nginx.url, scope, "latest", [layer_bytes(20 << 20, 1), layer_bytes(3000, 2)])
    brew(front, *image.layers)
    path = f"/v2/{scope}/manifests/latest"
    answer = session.get(nginx.url + path, timeout=60)
    assert [layer["rbtorrent_id"] for layer in answer.json()["layers"]] == [
        rbtorrent(layer.digest) for layer in image.layers
    ]
    by_digest = session.get(f"{nginx.url}/v2/{scope}/manifests/{image.digest}", timeout=60)
    assert by_digest.content == image.manifest
    blob = session.get(f"{nginx.url}/v2/{scope}/blobs/{image.layers[0].digest}", timeout=60)
    assert blob.content == layer_bytes(20 << 20, 1)
    deleted = session.delete(f"{nginx.url}/v2/{scope}/manifests/{image.digest}", timeout=60)
    assert deleted.status_code == 202
    assert session.get(nginx.url + path, timeout=60).status_code == 404


def test_an_upload_continues_at_the_front(nginx: Nginx, session: requests.Session, scope: str) -> None:
    started = session.post(f"{nginx.url}/v2/{scope}/blobs/uploads/", timeout=60)
    assert started.headers["Location"].startswith(f"{nginx.url}/v2/{scope}/blobs/uploads/")


def test_a_chunked_blob_is_accepted(nginx: Nginx, session: requests.Session, scope: str) -> None:
    where = session.post(f"{nginx.url}/v2/{scope}/blobs/uploads/", timeout=60).headers["Location"]
    sent = session.patch(where, data=iter([b"x" * 100_000] * 50), timeout=60)
    assert sent.status_code == 202
    assert sent.headers["Range"] == "0-4999999"


def test_several_accept_lines_are_joined(nginx: Nginx, registry: Registry, front: Front, scope: str) -> None:
    image = image_of(registry, scope, media="oci")
    brew(front, *image.layers)
    lines = [f"Accept: {kind}" for kind in (DOCKER_MANIFEST, OCI_MANIFEST, DOCKER_LIST, OCI_INDEX)]
    head = f"GET /v2/{scope}/manifests/latest HTTP/1.0\r\nHost: a\r\n" + "\r\n".join(lines) + "\r\n\r\n"
    with socket.create_connection((nginx.host, nginx.port)) as client:
        client.sendall(head.encode())
        assert client.makefile("rb").read().endswith(image.manifest)


def test_blackbox_gets_the_address_from_nginx(
    registry: Registry, session: requests.Session, scope: str, tmp_path: Path
) -> None:
    image = image_of(registry, scope)
    with start_blackbox() as blackbox:
        blackbox.accounts["throw-away"] = Account("somebody", address="127.0.0.1")
        settings = {"blackbox": {"url_template": blackbox.url_template, "read_timeout": 20}}
        with (
            front_of(registry.netloc, tmp_path / "box", settings=settings) as front,
            served(front) as app,
            nginx_front(tmp_path / "nginx", registry=registry.netloc, app=app) as nginx,
        ):
            url = f"{nginx.url}/v2/{scope}/manifests/{image.digest}"
            sent = {"Authorization": "OAuth throw-away", "X-Real-IP": "203.0.113.9"}
            assert session.get(url, headers=sent, timeout=60).content == image.manifest
            assert session.get(url, headers={"X-Real-IP": "127.0.0.1"}, timeout=60).status_code == 401
        assert {asked["userip"] for asked in blackbox.questions} == {"127.0.0.1"}


def test_without_the_app_blobs_are_served_and_with_the_fallback_manifests_too(
    registry: Registry, session: requests.Session, scope: str, tmp_path: Path
) -> None:
    image = image_of(registry, scope)
    manifest, blob = f"/v2/{scope}/manifests/{image.digest}", f"/v2/{scope}/blobs/{image.layers[0].digest}"
    nowhere = "127.0.0.1:1"
    with nginx_front(tmp_path / "plain", registry=registry.netloc, app=nowhere) as nginx:
        assert session.get(nginx.url + manifest, timeout=60).status_code == 502
        assert session.get(nginx.url + blob, timeout=60).status_code == 200
    with nginx_front(tmp_path / "more", registry=registry.netloc, app=nowhere, fallback=True) as nginx:
        assert session.get(nginx.url + manifest, timeout=60).content == image.manifest


def test_a_realm_made_of_the_host_has_the_host_that_clients_use(
    session: requests.Session, tmp_path: Path
) -> None:
    with start_token_server(tmp_path / "tokens", {}) as tokens:
        auth: TokenAuth = {**tokens.registry_auth(), "autoredirect": True}
        with (
            start_registry(tmp_path / "registry", token=auth) as registry,
            front_of(registry.netloc, tmp_path / "front") as front,
            served(front) as app,
            nginx_front(tmp_path, registry=registry.netloc, app=app) as nginx,
        ):
            # Tags come from the registry directly.
            for path in ("/v2/team/app/tags/list", "/v2/", f"/v2/team/app/manifests/{DIGEST}"):
                answer = session.get(nginx.url + path, headers={"Host": "hub.example:5000"}, timeout=60)
                assert answer.status_code == 401
                challenge = answer.headers["WWW-Authenticate"]
                assert challenge.startswith('Bearer realm="https://hub.example:5000/auth/token"'), path
