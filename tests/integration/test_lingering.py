"""A thread stays with its connection for a moment: in order, nothing lost, nobody kept waiting by it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

import pytest

import web.server
from web.lingering import LINGER_SECONDS
from web.listen import listen
from web.server import WebServer

LARGE = 3 * 1024 * 1024


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answers with the path; below /large with as many bytes as no socket takes at once."""
    path = environ["PATH_INFO"].encode()
    body = path if not path.startswith(b"/large") else path.ljust(LARGE, b".")
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


@contextmanager
def serving(app: Callable[..., Any]) -> Iterator[tuple[WebServer, int]]:
    sockets = listen("127.0.0.1", 0)
    server = WebServer(app, sockets, threads=4)
    try:
        yield server, sockets[0].getsockname()[1]
    finally:
        server.stop(0)


@pytest.mark.parametrize("kind", ["small", "large"])
def test_requests_sent_without_waiting_are_answered_in_their_order(kind: str) -> None:
    paths = [f"/{kind}/{number}" for number in range(200 if kind == "small" else 8)]
    with serving(app) as (_, port), socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        requests = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths)
        sender = threading.Thread(target=sock.sendall, args=(requests.encode(),))
        sender.start()
        answers = sock.makefile("rb")
        for path in paths:
            length = 0
            while (line := answers.readline().rstrip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            body = answers.read(length)
            assert body.rstrip(b".") == path.encode()
            assert len(body) == (LARGE if kind == "large" else len(path))
        sender.join()


def test_the_loop_is_not_woken_for_each_request() -> None:
    woken = []
    with serving(app) as (server, port):
        for listener in server._listeners():
            wake = listener.pull_trigger

            def count(wake: Callable[[], None] = wake) -> None:
                woken.append(1)
                wake()

            listener.pull_trigger = count
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        for number in range(200):
            connection.request("GET", f"/{number}")
            answer: HTTPResponse = connection.getresponse()
            assert answer.read() == f"/{number}".encode()
        connection.close()

        assert len(woken) < 100


def test_who_closes_his_half_once_he_has_asked_is_answered() -> None:
    with serving(app) as (_, port), socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(b"GET /last HTTP/1.1\r\nHost: x\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)

        assert sock.makefile("rb").read().endswith(b"\r\n\r\n/last")


def test_a_request_that_comes_in_pieces_is_read_by_whoever_has_the_connection() -> None:
    with serving(app) as (_, port), socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        answers = sock.makefile("rb")
        for number in range(20):
            for piece in (f"GET /{number} HT", "TP/1.1\r\nHost: x\r\n", "\r\n"):
                sock.sendall(piece.encode())
                if number % 2:
                    time.sleep(LINGER_SECONDS)
            body = f"/{number}".encode()
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += answers.readline()
            assert answers.read(len(body)) == body


def test_threads_that_linger_keep_nobody_waiting() -> None:
    with serving(app) as (_, port):
        connections = [HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(20)]
        for number in range(10):
            for connection in connections:
                connection.request("GET", f"/{number}")
            for connection in connections:
                assert connection.getresponse().read() == f"/{number}".encode()
        for connection in connections:
            connection.close()


def test_a_client_that_asks_again_and_again_does_not_keep_the_server_from_ending() -> None:
    asked = threading.Event()

    def ask(port: int) -> None:
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        with suppress(OSError, HTTPException):
            while True:
                connection.request("GET", "/again")
                connection.getresponse().read()
                asked.set()
        connection.close()

    with serving(app) as (server, port):
        client = threading.Thread(target=ask, args=(port,))
        client.start()
        assert asked.wait(60)
        server.stop(60)
        client.join(30)
        assert not client.is_alive()


@pytest.mark.parametrize("sent", ["at once", "after the answer"])
def test_a_download_keeps_no_place_of_those_who_ask_the_registry(
    monkeypatch: pytest.MonkeyPatch, sent: str
) -> None:
    monkeypatch.setattr(web.server, "UPSTREAM_THREADS", 2)
    downloading, go_on = threading.Semaphore(0), threading.Event()

    def slow_layers(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"].startswith("/v0/layers/"):
            downloading.release()
            go_on.wait(60)
        return app(environ, start_response)

    manifest, layer = (
        f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in ("/v2/", "/v0/layers/x")
    )
    with serving(slow_layers) as (_, port):
        connections = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(2)]
        for connection in connections:
            if sent == "at once":
                connection.sendall(manifest + layer)
            else:
                connection.sendall(manifest)
                assert connection.recv(1000).endswith(b"/v2/")
                connection.sendall(layer)
        for _ in connections:
            assert downloading.acquire(timeout=60)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as other:
            other.sendall(manifest)
            assert other.recv(1000).startswith(b"HTTP/1.1 200 ")
        go_on.set()
        for connection in connections:
            connection.close()


def test_without_more_threads_those_that_are_there_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()

    def once(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        begun.set()
        time.sleep(0.2)
        return app(environ, start_response)

    with serving(once) as (_, port):
        connections = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(10)]
        connections[0].sendall(b"GET /v2/0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert begun.wait(60)

        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        for number, connection in enumerate(connections[1:], start=1):
            connection.sendall(f"GET /v2/{number} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        for number, connection in enumerate(connections):
            assert connection.makefile("rb").read().endswith(f"/v2/{number}".encode())
            connection.close()
        monkeypatch.undo()


def test_while_it_ends_old_clients_are_told_once_that_it_closes() -> None:
    begun = threading.Event()

    def slow(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        begun.set()
        time.sleep(0.5)
        return app(environ, start_response)

    with serving(slow) as (server, port), socket.create_connection(("127.0.0.1", port), timeout=60) as old:
        old.sendall(b"GET /old HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n")
        assert begun.wait(60)
        server.stop(60)
        head = old.makefile("rb").read().partition(b"\r\n\r\n")[0]
        assert head.lower().count(b"connection:") == 1
        assert b"Connection: close" in head
