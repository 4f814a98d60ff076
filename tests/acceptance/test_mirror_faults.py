"""The running mirror when engines, the registry or the mirror itself fail."""

from __future__ import annotations

import base64
import hashlib
import select
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import requests

from node.http_download import BLOCK
from tests.acceptance.engines import PullFailed
from tests.acceptance.through_mirror import ThroughMirror
from tests.installation import worker_pids
from tests.mirror_process import MirrorProcess, start_mirror
from tests.servers.cutting_proxy import CuttingProxy, start_cutting_proxy
from tests.servers.dockerd import start_dockerd
from tests.servers.http_server import Connection, HttpServer, Request, start_http_server
from tests.servers.layers import digest_of, layer_bytes, layer_tar
from tests.servers.push import push_blob, push_image
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true

MIB = 1024 * 1024
SIZE = 12 * MIB
BROKEN = (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError)


@pytest.fixture
def proxy(registry: Registry) -> Iterator[CuttingProxy]:
    """The proxy between the mirror and the registry."""
    with start_cutting_proxy(registry.netloc) as proxy:
        yield proxy


@pytest.fixture
def mirror(registry: Registry, tmp_path: Path) -> Iterator[MirrorProcess]:
    with start_mirror(tmp_path / "mirror", registry) as mirror:
        yield mirror


@pytest.fixture
def path(registry: Registry, scope: str, content: bytes) -> str:
    """The path of the layer below /v2/."""
    return f"/v2/{scope}/blobs/{push_blob(registry, scope, content).digest}"


@pytest.fixture
def content(scope: str) -> bytes:
    """A layer that is unique to the test."""
    return layer_bytes(SIZE, seed=int(hashlib.sha256(scope.encode()).hexdigest()[:8], 16))


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


def is_cached(mirror: MirrorProcess, path: str) -> bool:
    cached = mirror.status()["cache"]["layers"]
    return any(layer["digest"] == path.rpartition("/")[2] for layer in cached)


def read_until_broken(answer: requests.Response) -> bytes:
    """Return the part of a body that must be incomplete."""
    received = b""
    try:
        for part in answer.iter_content(64 * 1024):
            received += part
    except BROKEN:
        return received
    raise AssertionError("the body ended as if it were complete")


def test_a_registry_that_dies_after_the_headers_breaks_the_connection(
    proxy: CuttingProxy, tmp_path: Path, path: str, content: bytes, session: requests.Session
) -> None:
    with start_mirror(tmp_path / "mirror", proxy.netloc) as mirror:
        proxy.throttle(2 * MIB)
        with session.get(mirror.url + path, stream=True, timeout=60) as answer:
            assert answer.status_code == 200
            first = answer.raw.read(MIB)
            proxy.close()
            received = first + read_until_broken(answer)
    assert len(received) < SIZE
    assert content.startswith(received)


def test_a_killed_mirror_resumes_its_download(
    proxy: CuttingProxy, tmp_path: Path, path: str, content: bytes, session: requests.Session
) -> None:
    kept = tmp_path / "mirror/cache/parts" / path.rpartition(":")[2]
    with start_mirror(tmp_path / "mirror", proxy.netloc) as mirror:
        proxy.throttle(MIB)
        with session.get(mirror.url + path, stream=True, timeout=60) as answer:
            assert answer.raw.read(MIB)
            assert comes_true(lambda: kept.exists() and kept.read_bytes().count(1) * BLOCK >= MIB)
            mirror.process.kill()
            read_until_broken(answer)
        had = kept.read_bytes().count(1) * BLOCK
        proxy.throttle(None)
        mirror.process.start()
        assert mirror.get(path).content == content
        assert mirror.received()["registry"] <= SIZE - had
        assert comes_true(lambda: is_cached(mirror, path))
    assert not kept.exists()


@pytest.mark.parametrize("name", ["containerd", "podman"])
def test_an_engine_whose_mirror_is_killed_pulls_from_the_registry(
    registry: Registry, proxy: CuttingProxy, scope: str, content: bytes, tmp_path: Path, name: str
) -> None:
    image = push_image(registry, scope, "v1", [layer_tar({"file": content})])
    with ExitStack() as stack:
        enter = stack.enter_context
        # podman and dockerd take only short paths.
        folder = Path(enter(TemporaryDirectory(prefix="pull-")))
        daemon = enter(start_dockerd(folder / "d")) if name == "containerd" else None
        mirror = enter(start_mirror(tmp_path / "mirror", proxy.netloc))
        engine = ThroughMirror(name, mirror, scope, folder, daemon)
        proxy.throttle(MIB // 2)
        pull = enter(ThreadPoolExecutor(1)).submit(engine.pull, ":v1", None)
        assert comes_true(lambda: any(one["done"] >= MIB // 2 for one in mirror.status()["downloads"]))
        mirror.process.kill()
        proxy.throttle(None)
        if name == "podman":
            # It has chosen the mirror for the whole pull; the next one goes to the registry.
            with pytest.raises(PullFailed):
                pull.result()
            pull = enter(ThreadPoolExecutor(1)).submit(engine.pull, ":v1", None)
        assert pull.result() == image.digest


def test_a_reader_resumes_where_the_mirror_failed(
    proxy: CuttingProxy, tmp_path: Path, path: str, content: bytes, session: requests.Session
) -> None:
    with start_mirror(tmp_path / "mirror", proxy.netloc) as mirror:
        proxy.throttle(2 * MIB)
        with session.get(mirror.url + path, stream=True, timeout=60) as answer:
            received = answer.raw.read(MIB)
        proxy.throttle(None)
        answer = mirror.get(path, headers={"Range": f"bytes={len(received)}-"})
        assert answer.status_code == 206
        assert received + answer.content == content


def test_engines_that_leave_do_not_end_the_download(
    mirror: MirrorProcess, path: str, session: requests.Session
) -> None:
    # As containerd 2.1 fetches: open-ended ranges that are read in part and closed.
    for start in range(0, SIZE, 4 * MIB):
        range_ = {"Range": f"bytes={start}-"}
        with session.get(mirror.url + path, headers=range_, stream=True, timeout=60) as answer:
            assert answer.status_code == 206
            assert answer.raw.read(1000)
    assert comes_true(lambda: is_cached(mirror, path))


def test_two_engines_make_one_download(
    registry: Registry, mirror: MirrorProcess, path: str, content: bytes
) -> None:
    with ThreadPoolExecutor(4) as engines:
        bodies = list(engines.map(lambda _: mirror.get(path).content, range(4)))
    assert all(body == content for body in bodies)
    assert [request[:2] for request in registry.requests()].count(("GET", path)) == 1


@pytest.mark.timeout(900)
def test_many_pulls_leak_neither_descriptors_nor_memory(
    registry: Registry, mirror: MirrorProcess, scope: str, session: requests.Session
) -> None:
    size = 3 * MIB
    digest = push_blob(registry, scope, layer_bytes(size, seed=99)).digest
    path = f"/v2/{scope}/blobs/{digest}"
    [worker] = map(psutil.Process, worker_pids(mirror.process))

    def pull() -> None:
        # Downloaded, then read from the cache by an engine that leaves.
        session.get(mirror.url + path, timeout=60).raise_for_status()
        assert comes_true(lambda: is_cached(mirror, path))
        with session.get(mirror.url + path, stream=True, timeout=60) as answer:
            answer.raw.read(1000)
        assert comes_true(lambda: session.delete(f"{mirror.url}/v0/mirror/layers/{digest}", timeout=60).ok)

    for _ in range(10):
        pull()
    descriptors, memory = worker.num_fds(), worker.memory_info().rss
    for _ in range(100):
        pull()
    assert comes_true(lambda: worker.num_fds() <= descriptors + 5), f"{descriptors}, now {worker.num_fds()}"
    # A tenth of the bytes pulled.
    assert worker.memory_info().rss - memory <= 10 * size


def test_engines_that_stop_reading_and_a_silent_registry_leave_ping_and_health(
    proxy: CuttingProxy, tmp_path: Path, path: str, content: bytes
) -> None:
    with start_mirror(tmp_path / "mirror", proxy.netloc) as mirror, ExitStack() as connections:

        def send(target: str) -> socket.socket:
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", mirror.port)))
            connection.settimeout(60)
            connection.sendall(f"GET {target} HTTP/1.1\r\nHost: mirror\r\n\r\n".encode())
            return connection

        assert mirror.get(path).content == content
        assert comes_true(lambda: is_cached(mirror, path))
        for _ in range(64):
            # More than the kernel takes of a body is left: the mirror cannot go on.
            assert send(path).recv(12) == b"HTTP/1.1 200"
        assert mirror.get(path).content == content
        assert mirror.get("/ping").text == "pong"
        # A result is kept for some seconds, and on a busy machine the registry may be late for the first one.
        assert comes_true(lambda: mirror.get("/healthz").status_code == 200)

        # Each that is not refused stays, so in the end all slots are taken.
        assert comes_true(lambda: send(path).recv(12) == b"HTTP/1.1 503")
        assert mirror.get(path).status_code == 503
        proxy.be_silent()
        waiting = [send("/v2/a/manifests/v1") for _ in range(120)]
        [refused, *_], _, _ = select.select(waiting, [], [], 60)
        assert refused.recv(12) == b"HTTP/1.1 503"
        assert mirror.get("/ping").text == "pong"
        assert comes_true(lambda: mirror.get("/healthz").json()["status"] == "down")
        proxy.be_silent(False)


class ExpiringRegistry:
    """One layer, for the tokens that are `good`. `pause_at` is the offset at which it waits for `go_on`."""

    def __init__(self, server: HttpServer, content: bytes, pause_at: int) -> None:
        self.good = {"Bearer first", "Bearer second"}
        self.paused = threading.Event()
        self.path = f"/v2/a/blobs/{digest_of(content)}"
        self._content = content
        self._pause_at = pause_at
        self._cut = False
        server.on(self.path, self._answer)

    def _answer(self, request: Request, connection: Connection) -> None:
        if request.headers["Authorization"] not in self.good:
            connection.reply(401, b"{}", {"WWW-Authenticate": 'Bearer realm="http://127.0.0.1/token"'})
            return
        first, _, last = request.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        start, end = int(first), int(last or SIZE - 1) + 1
        headers = {"Content-Length": str(end - start)}
        if "Range" in request.headers:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{SIZE}"
        connection.send_head(206 if "Range" in request.headers else 200, headers)
        if request.method == "HEAD":
            return
        if not self._cut and start <= self._pause_at < end:
            connection.send(self._content[start : self._pause_at])
            self._cut = True
            self.good.discard("Bearer first")
            return
        connection.send(self._content[start:end])


def test_an_expired_token_breaks_the_connection_and_a_new_one_resumes(
    tmp_path: Path, content: bytes, session: requests.Session
) -> None:
    with start_http_server() as server:
        upstream = ExpiringRegistry(server, content, 5 * MIB)
        with start_mirror(tmp_path / "mirror", server.netloc) as mirror:
            url = mirror.url + upstream.path
            headers = {"Authorization": "Bearer first"}
            with session.get(url, headers=headers, stream=True, timeout=60) as answer:
                assert answer.status_code == 200
                received = read_until_broken(answer)
            assert content.startswith(received)

            headers = {"Authorization": "Bearer second", "Range": f"bytes={len(received)}-"}
            answer = session.get(url, headers=headers, timeout=60)
            assert answer.status_code == 206
            assert received + answer.content == content


def test_a_token_that_expired_before_the_first_byte_is_401(tmp_path: Path, content: bytes) -> None:
    with start_http_server() as server:
        upstream = ExpiringRegistry(server, content, -1)
        with start_mirror(tmp_path / "mirror", server.netloc) as mirror:
            headers = {"Authorization": "Bearer first"}
            with requests.Session() as session:
                session.trust_env = False
                assert (
                    session.head(mirror.url + upstream.path, headers=headers, timeout=60).status_code == 200
                )
            # The mirror remembers the verdict, the registry refuses.
            upstream.good.clear()
            answer = mirror.get(upstream.path, headers=headers)
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="http://127.0.0.1/token"'


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_passed_on_for_a_cached_layer(tmp_path: Path, content: bytes, status: int) -> None:
    reader = {"Authorization": "Basic " + base64.b64encode(b"reader:password").decode()}
    with start_http_server() as server:
        upstream = ExpiringRegistry(server, content, -1)
        upstream.good = {reader["Authorization"]}
        with start_mirror(tmp_path / "mirror", server.netloc) as mirror:
            assert mirror.get(upstream.path, headers=reader).content == content
            assert comes_true(lambda: is_cached(mirror, upstream.path))
            server.on(upstream.path, lambda request, connection: connection.reply(status, b"{}"))
            answer = mirror.get(upstream.path, headers={"Authorization": "Basic b3RoZXI6cGFzc3dvcmQ="})
    assert answer.status_code == status
    assert content[:100] not in answer.content
