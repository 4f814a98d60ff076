"""The server in the process of the test, before an app whose answers wait as long as the test says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests

from web.listen import listen
from web.server import WebServer

ENVIRONMENT = {"PYTHONPATH": str(Path(__file__).parents[1])}
"""For programs of the tests that import from here."""


class Doors:
    """An app: /wait answers once it is let go, everything else at once."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            self.entered.set()
            self.let_go.wait(60)
        body = f"{environ['PATH_INFO']} {environ.get('HTTP_ACCEPT')}".encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]


@contextmanager
def serving(app: Callable[..., Any], host: str = "127.0.0.1") -> Iterator[tuple[WebServer, int]]:
    """The server, of four threads, and its port."""
    sockets = listen(host, 0)
    port = sockets[0].getsockname()[1]
    server = WebServer(app, sockets, threads=4)
    try:
        yield server, port
    finally:
        server.stop(0)


def get(port: int, path: str, host: str = "127.0.0.1", **headers: str) -> requests.Response:
    """Its answer to a GET."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://{host}:{port}{path}", headers=headers, timeout=60)


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread that does `work`, and what comes of it."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except requests.RequestException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results
