"""Streaming response bodies."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from core.errors import ConnectionCut, TimedOut
from core.http.client import HttpClient
from core.http.stream import HttpStream
from tests.servers import bad_http
from tests.servers.http_server import Connection, HttpServer, Request
from tests.servers.layers import layer_bytes
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true

BODY = layer_bytes(3_000_000)
READ_TIMEOUT = 60


@pytest.fixture
def client() -> Iterator[HttpClient]:
    with HttpClient(connect_timeout=60, read_timeout=READ_TIMEOUT) as running:
        yield running


def read_all(stream: HttpStream, size: int = 1 << 20) -> bytes:
    """Return the rest of the body, read into a buffer of `size` bytes."""
    buffer = memoryview(bytearray(size))
    body = bytearray()
    while count := stream.readinto(buffer):
        body += buffer[:count]
    return bytes(body)


def own_ports(registry: Registry) -> set[int]:
    """Return the local ports of this process's connections to `registry`."""
    opened = psutil.Process().net_connections("tcp")
    return {one.laddr.port for one in opened if one.raddr and one.raddr.port == registry.port}


@pytest.mark.parametrize("size", [1 << 20, 65_536, 1000])
def test_a_body_is_read_into_a_buffer_of_any_size(server: HttpServer, client: HttpClient, size: int) -> None:
    server.on("/", bad_http.replying(200, BODY))
    with client.open("GET", server.url) as stream:
        assert stream.length == len(BODY)
        assert read_all(stream, size) == BODY
        assert stream.received == len(BODY)
        assert stream.readinto(memoryview(bytearray(10))) == 0


@pytest.mark.parametrize("chunk", [1, 100, 70_000])
def test_chunks_are_read_whatever_their_size(server: HttpServer, client: HttpClient, chunk: int) -> None:
    body = BODY[: chunk * 40]
    raw = b"".join(b"%x\r\n%b\r\n" % (chunk, body[at : at + chunk]) for at in range(0, len(body), chunk))
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.on("/", bad_http.sending(head + raw + b"0\r\n\r\n"))
    with client.open("GET", server.url) as stream:
        assert stream.length is None
        assert read_all(stream) == body


def test_bytes_on_disk_are_returned_at_once(server: HttpServer, client: HttpClient) -> None:
    first_is_read = threading.Event()

    def in_two_parts(request: Request, connection: Connection) -> None:
        connection.send_head(200, {"Content-Length": "6"})
        connection.send(b"abc")
        first_is_read.wait(60)
        connection.send(b"def")

    server.on("/", in_two_parts)
    buffer = memoryview(bytearray(100))
    with client.open("GET", server.url) as stream:
        assert bytes(buffer[: stream.readinto(buffer)]) == b"abc"
        first_is_read.set()
        assert bytes(buffer[: stream.readinto(buffer)]) == b"def"
        assert stream.readinto(buffer) == 0


@pytest.mark.parametrize("reset", [False, True])
def test_a_truncated_body_is_an_error(server: HttpServer, client: HttpClient, reset: bool) -> None:
    server.on("/", bad_http.serving(BODY, cut_after=1_000_000, reset=reset))
    with client.open("GET", server.url) as stream, pytest.raises(ConnectionCut) as caught:
        read_all(stream)
    assert caught.value.offset == stream.received
    if not reset:  # a reset may overtake bytes sent before it
        assert caught.value.offset == 1_000_000


def test_silence_in_the_middle_ends_after_the_read_timeout(server: HttpServer) -> None:
    def fall_silent(request: Request, connection: Connection) -> None:
        connection.send_head(200, {"Content-Length": str(len(BODY))})
        connection.send(BODY[:50_000])
        connection.pause()

    server.on("/", fall_silent)
    with (
        HttpClient(connect_timeout=60, read_timeout=5) as client,
        client.open("GET", server.url) as stream,
        pytest.raises(TimedOut) as caught,
    ):
        read_all(stream)
    assert stream.received == 50_000
    assert caught.value.seconds == 5


def test_a_dripping_body_times_out_too(
    server: HttpServer, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("/", bad_http.dripping(BODY, size=100, seconds=0.05))
    with client.open("GET", server.url) as stream:
        # Each read takes a fifth of the time-out.
        monkeypatch.setattr(time, "monotonic", itertools.count(step=READ_TIMEOUT / 5).__next__)
        with pytest.raises(TimedOut):
            read_all(stream)


def test_a_slow_but_steady_stream_has_no_total_time_out(
    server: HttpServer, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = BODY[:2_000_000]
    server.on("/", bad_http.replying(200, body))
    with client.open("GET", server.url) as stream:
        monkeypatch.setattr(time, "monotonic", itertools.count(step=READ_TIMEOUT / 5).__next__)
        assert read_all(stream, size=100_000) == body
        assert time.monotonic() > 3 * READ_TIMEOUT


def test_a_reader_that_pauses_for_longer_than_the_time_out_loses_nothing(
    server: HttpServer, client: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.on("/", bad_http.replying(200, BODY))
    monotonic = time.monotonic
    with client.open("GET", server.url) as stream:
        first = bytearray(1)
        assert stream.readinto(memoryview(first)) == 1
        monkeypatch.setattr(time, "monotonic", lambda: monotonic() + 10 * READ_TIMEOUT)
        assert first + read_all(stream, size=1000) == BODY


def test_an_endless_body_is_read_in_constant_memory(server: HttpServer, client: HttpClient) -> None:
    server.on("/", bad_http.endless())
    buffer = memoryview(bytearray(1 << 16))
    with client.open("GET", server.url) as stream:
        while stream.received < 50_000_000:
            assert stream.readinto(buffer) > 0


def test_closing_twice_is_allowed_and_frees_the_connection(server: HttpServer, client: HttpClient) -> None:
    server.on("/", bad_http.endless())
    stream = client.open("GET", server.url)
    stream.close()
    stream.close()
    assert comes_true(
        lambda: not any(thread.name == f"serve-{server.port}" for thread in threading.enumerate())
    )


@pytest.mark.parametrize("headers", [{"Content-Length": "100"}, {}], ids=["with a length", "without"])
def test_closing_wakes_a_reader_in_another_thread(server: HttpServer, headers: dict[str, str]) -> None:
    def stop_sending(request: Request, connection: Connection) -> None:
        connection.send_head(200, headers)
        connection.pause()

    server.on("/", stop_sending)
    with HttpClient(60, 60) as client, client.open("GET", server.url) as stream:
        closing = threading.Timer(0.2, stream.close)
        closing.start()
        # Otherwise it would end in a time-out.
        with pytest.raises(ConnectionCut):
            stream.readinto(memoryview(bytearray(100)))
        closing.join()


def test_a_connection_that_was_freed_twice_serves_one_request_at_a_time(registry: Registry) -> None:
    before = own_ports(registry)
    with HttpClient(60, 60) as client:
        with client.open("GET", f"{registry.url}/v2/") as stream:
            read_all(stream)
            stream.close()
        with (
            client.open("GET", f"{registry.url}/v2/") as one,
            client.open("GET", f"{registry.url}/v2/") as other,
        ):
            assert len(own_ports(registry) - before) == 2
            assert read_all(one) == read_all(other)


def test_a_connection_is_reused_after_any_answer(registry: Registry) -> None:
    seen: set[int] = set()
    before = own_ports(registry)
    with HttpClient(60, 60, pool_size=1) as client:
        for method, path in [
            ("GET", "/v2/"),
            ("HEAD", "/v2/"),
            ("GET", "/v2/none/tags/list"),
            ("HEAD", "/none"),
        ]:
            client.fetch(method, registry.url + path)
            client.open(method, registry.url + path).discard()
            with client.open(method, registry.url + path) as stream:
                read_all(stream)
            seen |= own_ports(registry) - before
    assert len(seen) == 1


def test_a_connection_that_the_server_closed_while_idle_is_replaced(registry: Registry) -> None:
    with HttpClient(60, 60) as client:
        assert client.fetch("GET", f"{registry.url}/v2/").status == 200
        registry.stop()
        registry.start()
        assert client.fetch("GET", f"{registry.url}/v2/").status == 200
