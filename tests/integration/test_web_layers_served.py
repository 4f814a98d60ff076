"""Web seeds through the real server: clients that leave or stall, and hundreds at once."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

import web.layers
from core.digest import Digest
from core.torrents.capability import mint
from tests.servers.bad_http import serving
from tests.servers.http_server import HttpServer, start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.waiting import comes_true
from tests.web_parts import SECRET
from tests.web_server import front_of, served

CONTENT = layer_bytes(8_000_000)
LAYER = Digest(hashlib.sha256(CONTENT).hexdigest())
SCOPE = "library/test"
CAPABILITY = mint(SECRET, LAYER, SCOPE, int(time.time()) + 3600)
BLOBS = "docker/registry/v2/blobs/sha256"
PATH = f"/v0/layers/{CAPABILITY}/{LAYER.hex}"


@contextmanager
def seeding(
    folder: Path, *, registry: str = "127.0.0.1:1", constants: Mapping[str, Any] | None = None, **layers: Any
) -> Iterator[int]:
    """Serve an app with this section `layers`, and yield its port."""
    settings = {"torrents": {"web_seed_secret": SECRET.decode()}, "layers": layers}
    with front_of(registry, folder, settings=settings) as front, served(front, constants) as netloc:
        yield int(netloc.partition(":")[2])


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """The layer's file in a registry's storage tree."""
    file = tmp_path / BLOBS / LAYER.short / LAYER.hex / "data"
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def port(tmp_path: Path, blob: Path) -> Iterator[int]:
    """The port of an app that reads from that tree."""
    with seeding(tmp_path / "app", source="directory", directory=str(tmp_path)) as port:
        yield port


@pytest.fixture
def registry() -> Iterator[HttpServer]:
    """A registry that has the layer."""
    with start_http_server() as server:
        server.on(f"/v2/{SCOPE}/blobs/{LAYER}", serving(CONTENT))
        yield server


def open_files(path: Path) -> int:
    """Return the number of descriptors of a file in child processes."""
    links: list[Path] = []
    for child in psutil.Process().children(recursive=True):
        try:
            links += list(Path(f"/proc/{child.pid}/fd").iterdir())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sum(1 for one in links if os.path.realpath(one) == str(path))


def get(port: int, path: str = PATH, **headers: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=60)


def ask(port: int, path: str = PATH, *, receive_buffer: int = 4096, headers: str = "") -> socket.socket:
    """Return a connection on which the layer was requested, without reading."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n".encode())
    return connection


def read_all(connection: socket.socket) -> tuple[bytes, bytes]:
    """Return head and body of everything until the connection ends."""
    received = b""
    while part := connection.recv(1 << 18):
        received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return head.lower(), body


def test_the_layer_arrives_completely_and_connections_are_kept(port: int) -> None:
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(3):
            answer = session.get(f"http://127.0.0.1:{port}{PATH}", timeout=60)
            assert hashlib.sha256(answer.content).hexdigest() == LAYER.hex
            part = session.get(
                f"http://127.0.0.1:{port}{PATH}", headers={"Range": "bytes=1000000-5000000"}, timeout=60
            )
            assert (part.status_code, part.content == CONTENT[1_000_000:5_000_001]) == (206, True)
            head = session.head(f"http://127.0.0.1:{port}{PATH}", timeout=60)
            assert head.headers["Content-Length"] == "8000000"


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-2999999", 1_000_000, 3_000_000),
        ("bytes=-5", 7_999_995, 8_000_000),
    ],
)
def test_ranges_of_a_file_arrive(port: int, blob: Path, asked: str, start: int, end: int) -> None:
    for _ in range(3):
        part = get(port, Range=asked)
        assert (part.status_code, part.content == CONTENT[start:end]) == (206, True)
    assert comes_true(lambda: open_files(blob) == 0)


def test_a_client_that_leaves_in_the_middle_closes_the_file(port: int, blob: Path) -> None:
    connections = [ask(port) for _ in range(10)]
    assert comes_true(lambda: open_files(blob) == 10)
    for connection in connections:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        connection.close()
    assert comes_true(lambda: open_files(blob) == 0)
    assert get(port).content == CONTENT


def test_a_slow_client_gets_all(port: int, blob: Path) -> None:
    with ask(port, headers="Range: bytes=1-7999998\r\nConnection: close\r\n") as slow:
        received = b""
        while part := slow.recv(1 << 16):
            received += part
            time.sleep(0.002)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 206 ")
    assert body == CONTENT[1:7_999_999]
    assert comes_true(lambda: open_files(blob) == 0)


def test_a_source_that_fails_ends_the_connection(tmp_path: Path, registry: HttpServer) -> None:
    registry.on(f"/v2/{SCOPE}/blobs/{LAYER}", serving(CONTENT, cut_after=1_000_000, ranges=False))
    with seeding(tmp_path, registry=registry.netloc) as port:
        with ask(port, headers="Connection: close\r\n") as connection:
            head, body = read_all(connection)
        assert head.startswith(b"http/1.1 200 ok\r\n")
        assert b"content-length: 8000000" in head
        assert body == CONTENT[: len(body)]
        assert len(body) < len(CONTENT)
        registry.on(f"/v2/{SCOPE}/blobs/{LAYER}", serving(CONTENT))
        assert get(port).content == CONTENT
        log = (tmp_path / "served.log").read_text()
    assert "layer cut off" in log
    assert "Traceback" not in log
    assert CAPABILITY not in log


def test_truncating_a_file_while_it_is_sent_ends_the_connection(
    port: int, blob: Path, tmp_path: Path
) -> None:
    with ask(port, headers="Range: bytes=0-7999999\r\nConnection: close\r\n") as connection:
        assert comes_true(lambda: open_files(blob) == 1)
        os.truncate(blob, 1000)
        _, body = read_all(connection)
    assert len(body) < len(CONTENT)
    assert body[:1000] == CONTENT[:1000]
    assert comes_true(lambda: open_files(blob) == 0)
    assert "Traceback" not in (tmp_path / "app" / "served.log").read_text()


def test_a_missing_file_is_not_found(port: int, blob: Path) -> None:
    assert get(port, Range="bytes=0-9").content == CONTENT[:10]
    blob.unlink()
    assert get(port, Range="bytes=0-9").status_code == 404


def test_slow_downloads_delay_no_others(port: int, blob: Path) -> None:
    slow = [ask(port) for _ in range(web.layers.DOWNLOADS + 100)]
    assert comes_true(lambda: open_files(blob) == web.layers.DOWNLOADS)
    for _ in range(20):
        assert get(port, "/ping").status_code == 200
    for connection in slow:
        connection.close()
    assert comes_true(lambda: open_files(blob) == 0)
    assert get(port).content == CONTENT


def test_downloads_beyond_the_limit_wait_for_their_turn_and_get_no_503(tmp_path: Path, blob: Path) -> None:
    constants = {"web.layers.DOWNLOADS": 2}
    with seeding(tmp_path / "app", source="directory", directory=str(tmp_path), constants=constants) as port:
        stalled = [ask(port) for _ in range(2)]
        assert comes_true(lambda: open_files(blob) == 2)
        waiting = [ask(port, headers="Range: bytes=0-9\r\nConnection: close\r\n") for _ in range(20)]
        assert get(port, "/ping").status_code == 200
        for connection in stalled:
            connection.close()
        for connection in waiting:
            with connection:
                head, body = read_all(connection)
            assert head.startswith(b"http/1.1 206 ")
            assert body == CONTENT[:10]


def test_hundreds_of_ranges_at_once_all_arrive(port: int) -> None:
    wrong: list[int] = []

    def read(number: int) -> None:
        start = number * 20_000
        part = get(port, Range=f"bytes={start}-{start + 99_999}")
        if part.status_code != 206 or part.content != CONTENT[start : start + 100_000]:
            wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_pipelined_requests_are_answered_in_order(port: int, blob: Path) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        request = "GET {} HTTP/1.1\r\nHost: here\r\nRange: bytes={}-{}\r\n{}\r\n"
        connection.sendall(
            request.format(PATH, 0, 2_999_999, "").encode()
            + request.format("/ping", 0, 1, "").encode()
            + request.format(PATH, 3_000_000, 7_999_999, "Connection: close\r\n").encode()
        )
        received = b""
        while part := connection.recv(1 << 18):
            received += part
    first, second, third = received.split(b"HTTP/1.1 2")[1:]
    assert first.partition(b"\r\n\r\n")[2] == CONTENT[:3_000_000]
    assert second.startswith(b"00 OK")
    assert third.partition(b"\r\n\r\n")[2] == CONTENT[3_000_000:]
    assert comes_true(lambda: open_files(blob) == 0)
