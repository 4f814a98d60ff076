"""While the database, a source or the registry hangs, the app serves every request that does not need it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from http.client import HTTPResponse
from pathlib import Path

import pytest
import requests

import web.app
import web.id_lookup
import web.role_cache
from sql.engine import create_engine_for
from tests.notifications import envelope, event
from tests.servers.bad_http import hanging_up, replying, silent
from tests.servers.http_server import start_http_server
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true
from tests.web_manifests import image_of
from tests.web_server import front_of, served

KEY = "secretkey"
QUICK_SECONDS = 20.0
"""Ample on a busy machine, and less than the time-outs of the database and the registry."""


@contextmanager
def silent_listener() -> Iterator[int]:
    """Yield a port at which the kernel accepts connections, and nothing is ever sent."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=1000)) as listener:
        yield listener.getsockname()[1]


def get(netloc: str, path: str, seconds: float = 60) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://{netloc}{path}", timeout=seconds)


def soon(netloc: str, path: str) -> int:
    """Return the status of an answer, which must come quickly."""
    begun = time.monotonic()
    status = get(netloc, path).status_code
    assert time.monotonic() - begun < QUICK_SECONDS
    return status


def post(netloc: str, body: bytes, seconds: float) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": KEY}
        return session.post(f"http://{netloc}/v0/event", body, headers=headers, timeout=seconds)


def test_events_do_not_delay_other_requests_while_the_database_hangs(
    registry: Registry, scope: str, tmp_path: Path
) -> None:
    image_of(registry, scope)
    ended = threading.Event()
    with silent_listener() as port:
        engine = create_engine_for(url=f"postgresql://nobody@127.0.0.1:{port}/none", connect_timeout=30)
        settings = {"application": {"event_authorization": KEY}}
        with (
            front_of(registry.netloc, tmp_path, settings=settings, engine=engine, clock=time.time) as front,
            served(front) as netloc,
        ):

            def send() -> None:
                while not ended.is_set():
                    with suppress(requests.RequestException):
                        post(netloc, envelope(event(repository=scope)), 1.0)
                    ended.wait(0.2)

            senders = [threading.Thread(target=send) for _ in range(48)]
            for sender in senders:
                sender.start()
            try:
                for _ in range(30):
                    assert soon(netloc, "/ping") == 200
                    assert soon(netloc, f"/v2/{scope}/manifests/latest") == 200
                assert post(netloc, envelope(event(repository=scope)), QUICK_SECONDS).status_code == 503
            finally:
                ended.set()
                for sender in senders:
                    sender.join()


def ask(netloc: str, path: str) -> socket.socket:
    """Return a connection on which `path` was requested."""
    host, _, port = netloc.partition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    return connection


def answer_on(connection: socket.socket) -> tuple[int, Mapping[str, str], bytes]:
    """Return status, headers and body of the next answer."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.headers, answer.read()


def test_a_silent_registry_delays_neither_ping_nor_events_nor_layers(tmp_path: Path) -> None:
    settings = {"application": {"event_authorization": KEY}}
    with start_http_server() as registry:
        registry.on("/*", silent())
        with (
            front_of(registry.netloc, tmp_path, settings=settings) as front,
            served(front, {"web.app.REGISTRY_SECONDS": 2.0}) as netloc,
        ):
            paths = ["/v2/", "/v2/a/manifests/b", f"/v0/torrents/a/sha256:{'a' * 64}"]
            connections = [ask(netloc, paths[number % len(paths)]) for number in range(400)]
            assert comes_true(lambda: len(registry.requests) == web.app.REGISTRY_REQUESTS)
            for _ in range(5):
                assert soon(netloc, "/ping") == 200
                assert soon(netloc, f"/v0/layers/none/{'a' * 64}") == 403
                assert post(netloc, envelope(event()), QUICK_SECONDS).text == "OK"
            refused = 0
            for one in connections:
                status, headers, body = answer_on(one)
                if status == 503:
                    assert headers["Retry-After"] == "5"
                    assert json.loads(body)["errors"][0]["code"] == "UNAVAILABLE"
                    refused += 1
                one.close()
            assert refused >= len(connections) - 2 * web.app.REGISTRY_REQUESTS


def test_requests_beyond_the_limit_for_the_registry_are_served_in_turn(tmp_path: Path) -> None:
    with start_http_server() as registry:
        registry.on("/v2/", replying(200, b"{}"))
        with (
            front_of(registry.netloc, tmp_path) as front,
            served(front, {"web.app.REGISTRY_REQUESTS": 3}) as netloc,
        ):
            connections = [ask(netloc, "/v2/") for _ in range(100)]
            for path in ("/ping", "/v2/"):
                for one in connections:
                    assert answer_on(one)[0] == 200
                    one.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            for one in connections:
                assert answer_on(one)[0] == 200
                one.close()


@pytest.mark.parametrize("what", ["closed", "silent"])
def test_an_unreachable_registry_is_logged_without_the_token(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    with start_http_server() as registry:
        registry.on("/*", silent() if what == "silent" else hanging_up())
        for path in ("/v2/", "/v2/a/manifests/b?ns=private"):
            caplog.clear()
            with front_of(registry.netloc, tmp_path, read_timeout=0.5) as front:
                for _ in range(2):
                    answer = front.get(path, Authorization="Bearer throw-away")
                    assert answer.status == (504 if what == "silent" else 502)
            [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
            assert line.startswith("registry failed reason=http://127.0.0.1:")
            assert "throw-away" not in line
            assert "private" not in line
