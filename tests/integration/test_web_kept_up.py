"""While the database, a source or the registry hangs, the app serves every request that does not need it."""

from __future__ import annotations

import json
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import cast

import pytest
import requests

import web.app
from sql.engine import create_engine_for
from tests.notifications import envelope, event
from tests.servers.bad_http import hanging_up, replying, silent
from tests.servers.http_server import Connection, Request, start_http_server
from tests.servers.process import free_port
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true
from tests.web_manifests import image_of
from tests.web_server import front_of, served

KEY = "secretkey"
HANGING_SECONDS = 600.0
"""The time-outs of the database and the registry: an answer that came had not waited for them."""


def get(netloc: str, path: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://{netloc}{path}", timeout=120)


def post(netloc: str, body: bytes, seconds: float = 120) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": KEY}
        return session.post(f"http://{netloc}/v0/event", body, headers=headers, timeout=seconds)


def test_events_do_not_delay_other_requests_while_the_database_hangs(
    registry: Registry, scope: str, tmp_path: Path
) -> None:
    image_of(registry, scope)
    ended = threading.Event()
    port = free_port()
    settings = {
        "application": {"event_authorization": KEY},
        "db": {"connect_timeout": HANGING_SECONDS},
    }
    waits = {"web.role_cache.WAIT_SECONDS": 0.5, "web.id_lookup.WAIT_SECONDS": 0.5}
    engine = create_engine_for(url=f"postgresql://nobody@127.0.0.1:{port}/none")
    with (
        front_of(registry.netloc, tmp_path, settings=settings, engine=engine, clock=time.time) as front,
        # It starts while the port is closed. Then the kernel accepts connections there, and nothing answers.
        served(front, waits) as netloc,
        closing(socket.create_server(("127.0.0.1", port), backlog=1000)) as database,
        closing(ask(netloc, "/v0/event", envelope(event(repository=scope)))),
    ):
        database.settimeout(60)
        hanging, _ = database.accept()

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
                assert get(netloc, "/ping").status_code == 200
                assert get(netloc, f"/v2/{scope}/manifests/latest").status_code == 200
            assert post(netloc, envelope(event(repository=scope))).status_code == 503
        finally:
            ended.set()
            for sender in senders:
                sender.join()
            hanging.close()


def ask(netloc: str, path: str, body: bytes | None = None) -> socket.socket:
    """Return a connection on which `path` was requested, with a POST if there is a body."""
    host, _, port = netloc.partition(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    head = f"{'GET' if body is None else 'POST'} {path} HTTP/1.1\r\nHost: a\r\n"
    if body is not None:
        head += f"Authorization: {KEY}\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(head.encode() + b"\r\n" + (body or b""))
    return connection


def answer_on(connection: socket.socket) -> tuple[int, Mapping[str, str], bytes]:
    """Return status, headers and body of the next answer."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.headers, answer.read()


def test_a_silent_registry_delays_neither_ping_nor_events_nor_layers(tmp_path: Path) -> None:
    settings = {"application": {"event_authorization": KEY}}
    ended = threading.Event()

    def silent_until_ended(request: Request, connection: Connection) -> None:
        ended.wait()
        connection.reply(404)

    with start_http_server() as registry:
        registry.on("/*", silent_until_ended)
        with (
            front_of(registry.netloc, tmp_path, settings=settings, read_timeout=HANGING_SECONDS) as front,
            served(front, {"web.app.REGISTRY_SECONDS": 2.0}) as netloc,
            ExitStack() as stack,
        ):
            stack.callback(ended.set)
            paths = ["/v2/", "/v2/a/manifests/b", f"/v0/torrents/a/sha256:{'a' * 64}"]
            waiting = selectors.DefaultSelector()
            for number in range(400):
                connection = stack.enter_context(closing(ask(netloc, paths[number % len(paths)])))
                waiting.register(connection, selectors.EVENT_READ)
            assert comes_true(lambda: len(registry.requests) == web.app.REGISTRY_REQUESTS)
            for _ in range(5):
                assert get(netloc, "/ping").status_code == 200
                assert get(netloc, f"/v0/layers/none/{'a' * 64}").status_code == 403
                assert post(netloc, envelope(event())).text == "OK"
            # The others wait for a slot in vain.
            while len(waiting.get_map()) > web.app.REGISTRY_REQUESTS:
                ready = waiting.select(60)
                assert ready
                for key, _ in ready:
                    waiting.unregister(key.fileobj)
                    status, headers, body = answer_on(cast(socket.socket, key.fileobj))
                    assert status == 503
                    assert headers["Retry-After"] == "5"
                    assert json.loads(body)["errors"][0]["code"] == "UNAVAILABLE"
            ended.set()
            for key in list(waiting.get_map().values()):
                assert answer_on(cast(socket.socket, key.fileobj))[0] != 503


def test_requests_beyond_the_limit_for_the_registry_are_served_in_turn(tmp_path: Path) -> None:
    with start_http_server() as registry:
        registry.on("/v2/", replying(200, b"{}"))
        with (
            front_of(registry.netloc, tmp_path) as front,
            served(front, {"web.app.REGISTRY_REQUESTS": 3, "web.app.REGISTRY_SECONDS": 600.0}) as netloc,
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
        read_timeout = 0.5 if what == "silent" else 60.0
        for path in ("/v2/", "/v2/a/manifests/b?ns=private"):
            caplog.clear()
            with front_of(registry.netloc, tmp_path, read_timeout=read_timeout) as front:
                for _ in range(2):
                    answer = front.get(path, Authorization="Bearer throw-away")
                    assert answer.status == (504 if what == "silent" else 502)
            [line] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
            assert line.startswith("registry failed reason=http://127.0.0.1:")
            assert "throw-away" not in line
            assert "private" not in line
