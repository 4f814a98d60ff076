"""The server's last answers, and what it does when it runs out of descriptors or its loop breaks."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from waitress import wasyncore
from waitress.channel import HTTPChannel

import web.server
from tests.doors import ENVIRONMENT, Doors, get, in_background, serving
from tests.servers.process import free_port, listening, running
from tests.servers.waiting import comes_true
from web.listen import listen


def test_requests_over_kept_connections_are_served_to_the_end_and_told_to_be_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web.server, "_QUIET_SECONDS", 30.0)
    with serving(Doors()) as (server, port), closing(HTTPConnection("127.0.0.1", port, timeout=60)) as kept:
        kept.request("GET", "/first")
        answer = kept.getresponse()
        assert (answer.read(), answer.getheader("Connection")) == (b"/first None", None)
        stopping, finished = in_background(lambda: server.stop(grace=60))
        assert comes_true(lambda: server._stopping.is_set())
        kept.request("GET", "/last")
        answer = kept.getresponse()
        assert (answer.read(), answer.getheader("Connection")) == (b"/last None", "close")
        stopping.join(60)
        assert finished == [True]


def test_an_answer_that_was_in_flight_says_that_its_connection_ends() -> None:
    app = Doors()
    with serving(app) as (server, port):
        asking, answers = in_background(lambda: get(port, "/wait"))
        assert app.entered.wait(60)
        stopping, _ = in_background(lambda: server.stop(grace=60))
        assert comes_true(lambda: server._stopping.is_set())
        app.let_go.set()
        asking.join(60)
        stopping.join(60)
        assert answers[0].headers["Connection"] == "close"


def test_a_connection_that_says_nothing_does_not_hold_up_the_end() -> None:
    with serving(Doors()) as (server, port), socket.create_connection(("127.0.0.1", port)):
        assert comes_true(lambda: len(server._of(HTTPChannel)) == 1)
        begun = time.monotonic()
        assert server.stop(grace=60)
        assert time.monotonic() - begun < 10


def test_a_thread_whose_connection_the_loop_has_closed_meets_no_error() -> None:
    with serving(Doors()) as (server, port), socket.create_connection(("127.0.0.1", port)):
        assert comes_true(lambda: len(server._of(HTTPChannel)) == 1)
        [channel] = server._of(HTTPChannel)
        channel.handle_close()
        # As it was for the thread a moment before.
        channel.connected = True
        assert not channel._read_next()
        assert channel.send(b"x", do_close=False) == 0
        assert channel.recv(1) == b""


def test_without_descriptors_connections_wait_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = []
    accept = wasyncore.dispatcher.accept

    def none_left(self: Any) -> Any:
        tried.append(1)
        if len(tried) <= 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return accept(self)

    monkeypatch.setattr(wasyncore.dispatcher, "accept", none_left)
    with serving(Doors()) as (_, port):
        assert get(port, "/a").ok
        assert len(tried) <= 4
    told = [record.getMessage() for record in caplog.records if "accepted" in record.getMessage()]
    assert told == ["connections cannot be accepted reason=Too many open files"]


PROGRAM = """
import sys, threading
from core.stopping import stop_on_signals
from web.listen import listen
from web.server import WebServer
from web.workers import serve

class App:
    def __call__(self, environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"here"])
    def refuses_body(self, method, path, authorization):
        return None
    def close(self):
        print("closed", flush=True)

def broken(self, seconds):
    raise RuntimeError("on purpose")

if sys.argv[3] == "broken":
    WebServer._turn = broken
stop = threading.Event()
with stop_on_signals(stop):
    sys.exit(serve(App, listen("127.0.0.1", int(sys.argv[1])), stop, workers=int(sys.argv[2]), threads=4))
"""


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., list[str]]:
    """What runs PROGRAM, with at most so many descriptors: soft and hard limit."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(PROGRAM))

    def build(port: int, *more: object, soft: int = 1024, hard: int = 4096) -> list[str]:
        program = " ".join(map(str, [sys.executable, file, port, *more]))
        return ["sh", "-c", f"ulimit -Sn {soft} && ulimit -Hn {hard} && exec {program}"]

    return build


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_whose_loop_breaks_ends_the_process(command: Callable[..., list[str]], workers: int) -> None:
    argv = command(free_port(), workers, "broken")
    ended = subprocess.run(
        argv, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert "the server broke off" in ended.stderr
    assert "closed" in ended.stdout


def test_more_connections_than_the_soft_limit_of_descriptors_are_taken(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    port = free_port()
    argv = command(port, 1, "well", soft=64, hard=1024)
    with running(argv, ready=listening(port), log=tmp_path / "log", env=ENVIRONMENT):
        idle = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(200)]
        assert get(port, "/").text == "here"
        for one in idle:
            one.close()


def test_beyond_its_descriptors_a_server_rests_and_serves_those_it_has(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    port = free_port()
    argv = command(port, 1, "well", soft=64, hard=64)
    with running(argv, ready=listening(port), log=tmp_path / "log", env=ENVIRONMENT) as process:
        first = HTTPConnection("127.0.0.1", port, timeout=60)
        first.connect()
        idle = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(100)]
        assert comes_true(lambda: "connection limit" in process.log.read_text())
        before = process_seconds(process.pid)
        time.sleep(1)
        assert process_seconds(process.pid) - before < 0.5
        first.request("GET", "/")
        assert first.getresponse().read() == b"here"
        for one in [first, *idle]:
            one.close()
        assert comes_true(lambda: get(port, "/").text == "here")


def process_seconds(pid: int) -> float:
    """Processor time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_daemon_starts_no_job_where_it_cannot_listen(tmp_path: Path) -> None:
    with closing(listen("127.0.0.1", 0)[0]) as taken:
        port = taken.getsockname()[1]
        config = tmp_path / "config.yaml"
        config.write_text(
            f"docker_registry: {{host: 127.0.0.1:1, proto: http}}\n"
            f"application: {{host: 127.0.0.1, port: {port}, state_dir: {tmp_path / 'state'}}}\n"
        )
        for command in ([], ["web"], ["web", "--workers", "2"]):
            ended = subprocess.run(
                [sys.executable, "-m", "docker_torrents", "-c", str(config), *command],
                env={**os.environ, **ENVIRONMENT},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            where = f"127.0.0.1 port {port} (application.host, application.port)"
            assert ended.stderr.splitlines()[-1] == (
                f"docker_torrents: cannot listen at {where}: address already in use"
            )
            assert ended.returncode == 2
    assert not (tmp_path / "state").exists()
