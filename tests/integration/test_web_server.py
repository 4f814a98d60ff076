"""The server that runs the app: addresses, slow clients, and how it stops, alone and with workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest
import requests

from core.errors import CannotListen
from tests.doors import ENVIRONMENT, Doors, get, in_background, serving
from tests.servers.process import ServerProcess, free_port, gone, listening
from tests.servers.waiting import comes_true
from web.listen import listen
from web.server import WebServer


def waiting(server: WebServer) -> int:
    """How many requests wait for a thread."""
    threads = server._server.task_dispatcher
    return len(threads._waiting) + len(threads._held_back)


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@pytest.mark.parametrize("host", ["::", ""])
def test_all_addresses_means_those_of_ipv4_and_of_ipv6(host: str) -> None:
    with serving(Doors(), host) as (_, port):
        assert get(port, "/a", "127.0.0.1").ok
        if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
            assert get(port, "/a", "[::1]").ok


def test_one_address_means_no_other() -> None:
    with serving(Doors(), "127.0.0.1") as (_, port):
        assert get(port, "/a").ok
        with pytest.raises(requests.ConnectionError):
            get(port, "/a", "127.0.0.2")


def test_an_address_that_is_taken_is_refused() -> None:
    with closing(listen("127.0.0.1", 0)[0]) as taken, pytest.raises(CannotListen) as raised:
        listen("127.0.0.1", port := taken.getsockname()[1])
    where = f"127.0.0.1 port {port} (application.host, application.port)"
    assert str(raised.value) == f"cannot listen at {where}: address already in use"


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotListen, match=r"203\.0\.113\.1 port 80 .*: cannot assign requested address"):
        listen("203.0.113.1", 80)


def test_several_accept_lines_reach_the_app_as_one() -> None:
    with serving(Doors()) as (_, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /a HTTP/1.0\r\nAccept: a/b\r\nAccept: c/d, e/f\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"/a a/b, c/d, e/f")


def test_clients_that_send_slowly_hold_no_thread() -> None:
    with serving(Doors()) as (_, port):
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
        for client in slow:
            client.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\nX-")
        assert get(port, "/a").ok
        for client in slow:
            client.sendall(b"A: b\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 200")
            client.close()


def test_requests_beyond_the_threads_wait_for_one() -> None:
    app, before = Doors(), set(threading.enumerate())
    with serving(app) as (_, port):
        asking = [in_background(lambda: get(port, "/wait").status_code) for _ in range(12)]
        assert app.entered.wait(60)
        app.let_go.set()
        for thread, _ in asking:
            thread.join(60)
        assert [answers for _, answers in asking] == [[200]] * 12
        started = set(threading.enumerate()) - before
        assert sum(thread.name.startswith("web-") for thread in started) <= 4


def test_requests_that_still_wait_for_a_thread_are_served_before_the_server_stops() -> None:
    app = Doors()
    with serving(app) as (server, port):
        asking = [in_background(lambda: get(port, "/wait").status_code) for _ in range(8)]
        assert comes_true(lambda: waiting(server) == 4)
        stopping, finished = in_background(lambda: server.stop(grace=60))
        app.let_go.set()
        for thread, _ in [*asking, (stopping, finished)]:
            thread.join(60)
        assert [answers for _, answers in asking] == [[200]] * 8
        assert finished == [True]


def test_a_token_may_be_as_long_as_tokens_are() -> None:
    with serving(Doors()) as (_, port):
        assert get(port, "/a", Authorization="Bearer " + "x" * 30_000).ok


@pytest.mark.parametrize(
    ("head", "status", "code"),
    [
        ("GET /a HTTP/1.1\r\nAuthorization Bearer secret\r\n", 400, "UNSUPPORTED"),
        ("GET /a HTTP/1.1\r\nAuthorization: Bearer secret\r\nContent-Length: secret\r\n", 400, "UNSUPPORTED"),
        ("POST /a HTTP/1.1\r\nContent-Length: 99999999999\r\n", 413, "SIZE_INVALID"),
        (f"GET /a HTTP/1.1\r\nAuthorization: Bearer {'secret' * 11_000}\r\n", 431, "HEADER_INVALID"),
        ("POST /a HTTP/1.1\r\nTransfer-Encoding: secret\r\n", 501, "UNSUPPORTED"),
        ("POST /fail HTTP/1.1\r\n", 500, "UNKNOWN"),
    ],
)
def test_what_never_gets_to_the_app_is_refused_in_the_registry_s_json(
    head: str, status: int, code: str
) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise RuntimeError("secret")

    with serving(app) as (_, port), socket.create_connection(("127.0.0.1", port), 60) as connection:
        connection.sendall(f"{head}\r\n".encode())
        answer = HTTPResponse(connection)
        answer.begin()
        body = answer.read()
        assert (answer.status, answer.getheader("Content-Type")) == (
            status,
            "application/json; charset=utf-8",
        )
        [told] = json.loads(body)["errors"]
        assert told["code"] == code
        assert b"secret" not in body
        with suppress(ConnectionResetError):  # some of the head was not read
            assert connection.recv(1) == b""


def test_what_the_server_logs_holds_no_capability(caplog: pytest.LogCaptureFixture) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise RuntimeError("on purpose")

    with serving(app) as (_, port):
        answer = get(port, "/v0/layers/c2VjcmV0/" + "a" * 64)
    assert (answer.status_code, "on purpose" in answer.text) == (500, False)
    assert "/v0/layers/…/aaaa" in caplog.text
    assert "c2VjcmV0" not in caplog.text


def test_a_request_in_flight_finishes_before_the_server_stops() -> None:
    app = Doors()
    with serving(app) as (server, port):
        asking, answers = in_background(lambda: get(port, "/wait").text)
        assert app.entered.wait(60)
        stopping, finished = in_background(lambda: server.stop(grace=60))
        assert comes_true(lambda: refused(port))
        assert stopping.is_alive()
        app.let_go.set()
        asking.join(60)
        stopping.join(60)
        assert answers == ["/wait */*"]
        assert finished == [True]


def test_a_request_that_does_not_finish_is_given_up_after_the_grace() -> None:
    app = Doors()
    with serving(app) as (server, port):
        asking, answers = in_background(lambda: get(port, "/wait").text)
        assert app.entered.wait(60)
        assert not server.stop(grace=0.5)
        app.let_go.set()
        asking.join(60)
        assert isinstance(answers[0], requests.ConnectionError)


def test_who_has_connected_before_the_stop_is_served() -> None:
    with serving(Doors()) as (server, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET /a HTTP/1.0\r\n\r\n")
        server.stop()
        assert client.recv(100).startswith(b"HTTP/1.0 200")


def test_an_answer_that_is_being_sent_is_sent_to_its_end() -> None:
    size = 64 << 20

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [("Content-Length", str(size))])
        for _ in range(size >> 20):
            yield b"x" * (1 << 20)

    with serving(app) as (server, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        received = len(client.recv(1000))
        stopping, finished = in_background(lambda: server.stop(grace=30))
        while part := client.recv(1 << 20):
            received += len(part)
        stopping.join(60)
        assert received > size
        assert finished == [True]


PROGRAM = """
import os, sys, threading, time
from core.stopping import stop_on_signals
from web.listen import listen
from web.workers import serve

class App:
    def __call__(self, environ, start_response):
        if environ["PATH_INFO"] == "/slow":
            print("asked", flush=True)
            time.sleep(1)
        if environ["PATH_INFO"] == "/crash":
            os._exit(3)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([str(os.getpid()).encode()])
    def refuses_body(self, method, path, authorization):
        return None
    def close(self):
        print("closed", flush=True)

def broken():
    raise ValueError("cannot be built")

build, stop = broken if sys.argv[3] == "broken" else App, threading.Event()
port, workers = map(int, sys.argv[1:3])
with stop_on_signals(stop):
    sys.exit(serve(build, listen("127.0.0.1", port), stop, workers=workers, threads=4, grace=30))
"""


def command(folder: Path, port: int, workers: int, how: str) -> list[str | Path]:
    """What starts PROGRAM, whose app can be built if `how` is not "broken"."""
    file = folder / "program.py"
    file.write_text(textwrap.dedent(PROGRAM))
    return [sys.executable, file, str(port), str(workers), how]


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., tuple[ServerProcess, int]]]:
    started: list[ServerProcess] = []

    def run(workers: int) -> tuple[ServerProcess, int]:
        port = free_port()
        process = ServerProcess(
            command(tmp_path, port, workers, "well"),
            ready=listening(port),
            log=tmp_path / "log",
            env=ENVIRONMENT,
        )
        process.start()
        started.append(process)
        return process, port

    yield run
    for process in started:
        process.stop()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_after_what_is_in_flight(
    program: Callable[..., tuple[ServerProcess, int]], workers: int, number: signal.Signals
) -> None:
    process, port = program(workers)
    asking, answers = in_background(lambda: get(port, "/slow").status_code)
    assert comes_true(lambda: "asked" in process.log.read_text())
    process.send_signal(number)
    asking.join(60)
    assert answers == [200]
    assert process.exit_status() == 0
    assert process.log.read_text().count("closed") == workers


def test_workers_share_the_requests(program: Callable[..., tuple[ServerProcess, int]]) -> None:
    process, port = program(2)
    seen: set[str] = set()

    def both() -> bool:
        seen.add(get(port, "/a").text)
        return len(seen) == 2

    assert comes_true(both)
    assert str(process.pid) not in seen


def test_a_worker_that_dies_is_replaced(program: Callable[..., tuple[ServerProcess, int]]) -> None:
    _, port = program(2)
    seen: set[str] = set()

    def workers() -> int:
        seen.add(get(port, "/a").text)
        return len(seen)

    assert comes_true(lambda: workers() == 2)
    time.sleep(2.5)  # one that dies sooner counts as one that cannot work
    with pytest.raises(requests.ConnectionError):
        get(port, "/crash")
    assert comes_true(lambda: workers() == 3)


def test_an_app_that_cannot_be_built_ends_the_server(tmp_path: Path) -> None:
    argv = command(tmp_path, free_port(), 2, "broken")
    assert subprocess.run(argv, env={**os.environ, **ENVIRONMENT}, timeout=60).returncode == 1


def test_workers_do_not_outlive_who_started_them(program: Callable[..., tuple[ServerProcess, int]]) -> None:
    process, port = program(2)
    worker = int(get(port, "/a").text)
    os.kill(process.pid, signal.SIGKILL)
    assert comes_true(lambda: gone(worker))
