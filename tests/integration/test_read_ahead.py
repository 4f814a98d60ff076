"""A connection is read from while its request is served: in order, nothing lost, and the loop sleeps on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import pytest

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


def test_a_client_that_leaves_while_its_request_is_served_frees_its_connection() -> None:
    entered, let_go = threading.Event(), threading.Event()

    def waits(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            entered.set()
            assert let_go.wait(60)
        return app(environ, start_response)

    with serving(waits) as (_, port):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
            sock.sendall(b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
            assert entered.wait(60)
        let_go.set()

        connection = HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", "/next")
        assert connection.getresponse().read() == b"/next"
        connection.close()
