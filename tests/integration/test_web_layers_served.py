"""Web seeds through the real server: clients that leave, stall or come in hundreds."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

import web.layers
from core.blobs.directory import DirectoryBlobs
from core.blobs.source import BlobSource
from core.digest import Digest
from core.torrents.capability import mint
from tests.memory_source import Fault, MemorySource
from tests.servers.layers import layer_bytes
from tests.servers.waiting import comes_true
from tests.web_parts import NOON, SECRET, app_of, web_parts
from web.listen import listen
from web.server import WebServer

CONTENT = layer_bytes(8_000_000)
LAYER = Digest(hashlib.sha256(CONTENT).hexdigest())
CAPABILITY = mint(SECRET, LAYER, "library/test", NOON + 60)
BLOBS = "/docker/registry/v2/blobs/sha256/{short_digest}/{full_digest}/data"
PATH = f"/v0/layers/{CAPABILITY}/{LAYER.hex}"


@contextmanager
def serving(folder: Path, source: BlobSource, **options: float) -> Iterator[int]:
    folder.mkdir(exist_ok=True)
    parts = web_parts(folder, source=source)
    app = app_of(parts)
    sockets = listen("127.0.0.1", 0)
    port: int = sockets[0].getsockname()[1]
    server = WebServer(app, sockets, **options)
    try:
        yield port
    finally:
        server.stop(0)
        app.close()
        parts.engine.dispose()


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({LAYER: CONTENT})


@pytest.fixture
def port(tmp_path: Path, source: MemorySource) -> Iterator[int]:
    with serving(tmp_path, source) as port:
        yield port


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """The layer's file in a registry's storage tree."""
    file = tmp_path / BLOBS.format(short_digest=LAYER.short, full_digest=LAYER.hex).lstrip("/")
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    return file


@pytest.fixture
def file_port(tmp_path: Path, blob: Path) -> Iterator[int]:
    """An app that reads from that tree."""
    with serving(tmp_path / "app", DirectoryBlobs(tmp_path, BLOBS)) as port:
        yield port


def open_files(path: Path) -> int:
    """How many descriptors this process has of a file."""
    links = [one for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return sum(1 for one in links if os.path.realpath(one) == str(path))


def get(port: int, path: str = PATH, **headers: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=60)


def ask(port: int, path: str = PATH, *, receive_buffer: int = 4096, headers: str = "") -> socket.socket:
    """A connection on which the layer was asked for, and nothing is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", port))
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n".encode())
    return connection


def test_the_layer_arrives_whole_and_connections_are_kept(port: int) -> None:
    with requests.Session() as session:
        session.trust_env = False
        for _ in range(3):
            answer = session.get(f"http://127.0.0.1:{port}{PATH}", timeout=60)
            assert hashlib.sha256(answer.content).hexdigest() == LAYER.hex
            part = session.get(
                f"http://127.0.0.1:{port}{PATH}", headers={"Range": "bytes=1000000-5000000"}, timeout=20
            )
            assert (part.status_code, part.content == CONTENT[1_000_000:5_000_001]) == (206, True)
            head = session.head(f"http://127.0.0.1:{port}{PATH}", timeout=60)
            assert head.headers["Content-Length"] == "8000000"


def test_a_client_that_leaves_in_the_middle_lets_go_of_the_source(port: int, source: MemorySource) -> None:
    connections = [ask(port) for _ in range(10)]
    for connection in connections:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
        connection.close()
    assert comes_true(lambda: not source.open_readers)
    assert get(port).content == CONTENT


def test_a_client_that_stalls_is_given_up_but_not_one_that_is_slow(tmp_path: Path) -> None:
    content = layer_bytes(32_000_000)  # more than both kernels' buffers hold
    layer = Digest(hashlib.sha256(content).hexdigest())
    path = f"/v0/layers/{mint(SECRET, layer, 'library/test', NOON + 60)}/{layer.hex}"
    source = MemorySource({layer: content})
    with (
        serving(tmp_path, source, patience=2.0) as port,
        ask(port, path) as stalled,
        ask(port, path, receive_buffer=1 << 17) as slow,
    ):
        assert comes_true(lambda: len(source.open_readers) == 2)
        received, begun = 0, time.monotonic()
        while part := slow.recv(1 << 18):
            received += len(part)
            time.sleep(0.03)
            if received >= len(content):
                break
        assert received >= len(content)
        assert time.monotonic() - begun > 2
        assert comes_true(lambda: not source.open_readers)
        taken = 0
        while part := stalled.recv(1 << 18):
            taken += len(part)
        assert taken < len(content)


def test_a_source_that_breaks_in_the_middle_ends_the_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = MemorySource({LAYER: CONTENT}, faults=[Fault("cut", after=1_000_000)])
    with serving(tmp_path, source) as port:
        with ask(port) as connection:
            received = b""
            while part := connection.recv(1 << 16):
                received += part
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: 8000000" in head
        assert body == CONTENT[: len(body)]
        assert len(body) <= 1_000_000
        assert get(port).content == CONTENT
    assert "layer broken off" in caplog.text
    assert "Traceback" not in caplog.text


def test_no_capability_reaches_the_log_of_the_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = MemorySource({LAYER: CONTENT}, faults=[None, Fault("cut", after=1_000_000)])
    with serving(tmp_path, source) as port:
        ask(port).close()
        assert comes_true(lambda: len(source.opened) == 1 and not source.open_readers)
        with ask(port) as connection:
            while connection.recv(1 << 16):
                pass
        get(port)
    assert CAPABILITY not in caplog.text


def test_hundreds_of_slow_downloads_do_not_keep_others_waiting(port: int, source: MemorySource) -> None:
    slow = [ask(port) for _ in range(300)]
    assert comes_true(lambda: len(source.open_readers) == web.layers.MAX_STREAMS)
    refused = [connection for connection in slow if connection.recv(12) == b"HTTP/1.1 503"]
    for _ in range(20):
        assert get(port, "/ping").status_code == 200
    assert len(refused) == 300 - web.layers.MAX_STREAMS
    for connection in slow:
        connection.close()
    assert comes_true(lambda: not source.open_readers)
    assert get(port).content == CONTENT


def test_hundreds_of_ranges_at_once_all_arrive(port: int) -> None:
    wrong: list[int] = []

    def read(number: int) -> None:
        start = number * 20_000
        while (part := get(port, Range=f"bytes={start}-{start + 99_999}")).status_code == 503:
            time.sleep(0.1)
        if part.content != CONTENT[start : start + 100_000]:
            wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-2999999", 1_000_000, 3_000_000),
        ("bytes=-5", 7_999_995, 8_000_000),
    ],
)
def test_pieces_of_a_file_arrive(file_port: int, blob: Path, asked: str, start: int, end: int) -> None:
    for _ in range(3):
        part = get(file_port, Range=asked)
        assert (part.status_code, part.content == CONTENT[start:end]) == (206, True)
    assert get(file_port).content == CONTENT
    assert comes_true(lambda: open_files(blob) == 0)


def test_a_slow_client_gets_a_file_in_order(file_port: int, blob: Path) -> None:
    with ask(file_port, headers="Range: bytes=1-7999998\r\nConnection: close\r\n") as slow:
        received = b""
        while part := slow.recv(1 << 18):
            received += part
            time.sleep(0.002)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 206 ")
    assert body == CONTENT[1:7_999_999]
    assert comes_true(lambda: open_files(blob) == 0)


def test_pieces_asked_for_in_one_breath_come_one_after_the_other(file_port: int, blob: Path) -> None:
    with socket.create_connection(("127.0.0.1", file_port), timeout=60) as connection:
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


def test_a_file_that_is_cut_off_while_it_is_sent_ends_its_connection(
    file_port: int, blob: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ask(file_port, headers="Range: bytes=0-7999999\r\n") as connection:
        received = connection.recv(1000)
        assert received.startswith(b"HTTP/1.1 206 ")
        os.truncate(blob, 1000)
        while part := connection.recv(1 << 18):
            received += part
    body = received.partition(b"\r\n\r\n")[2]
    assert len(body) < len(CONTENT)
    assert body[:1000] == CONTENT[:1000]
    assert comes_true(lambda: open_files(blob) == 0)
    assert "Traceback" not in caplog.text


def test_a_layer_longer_than_any_piece_arrives_from_a_file_too(
    file_port: int, blob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.layers, "LONGEST_FILE_SPAN", 1000)
    assert get(file_port).content == CONTENT
    assert get(file_port, Range="bytes=5-1005").content == CONTENT[5:1006]
    assert comes_true(lambda: open_files(blob) == 0)


def test_downloads_of_files_take_no_threads(file_port: int, blob: Path) -> None:
    number = web.layers.MAX_STREAMS + 100
    stalled = [ask(file_port, headers="Range: bytes=0-7999999\r\n") for _ in range(number)]
    for connection in stalled:
        assert connection.recv(12) == b"HTTP/1.1 206"
    assert comes_true(lambda: open_files(blob) == number)
    assert get(file_port, "/ping").status_code == 200
    for connection in stalled:
        connection.close()
    assert comes_true(lambda: open_files(blob) == 0)


def test_beyond_their_limit_downloads_of_files_are_put_off(
    tmp_path: Path, blob: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.layers, "MAX_FILES", 2)
    with serving(tmp_path / "app", DirectoryBlobs(tmp_path, BLOBS)) as port:
        stalled = [ask(port) for _ in range(2)]
        assert comes_true(lambda: open_files(blob) == 2)
        assert get(port, Range="bytes=0-9").status_code == 503
        for connection in stalled:
            connection.close()
        assert comes_true(lambda: get(port, Range="bytes=0-9").content == CONTENT[:10])


def test_a_file_that_is_not_whole_is_not_served(tmp_path: Path, file_port: int, blob: Path) -> None:
    assert get(file_port, Range="bytes=0-9").content == CONTENT[:10]
    blob.write_bytes(CONTENT[:1000])
    assert get(file_port, Range="bytes=0-9").status_code == 502
    blob.write_bytes(CONTENT)
    assert get(file_port, Range="bytes=0-9").content == CONTENT[:10]
    blob.unlink()
    assert get(file_port, Range="bytes=0-9").status_code == 404
    assert comes_true(lambda: open_files(blob) == 0)
