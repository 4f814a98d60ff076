"""The server of the apps: addresses, workers, stopping, and crashed processes."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from io import FileIO
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from core.errors import CannotListen, ConfigInvalid
from core.listening import check_free, resolve_host
from core.server import serve
from tests.served_app import LARGE, build
from tests.servers.process import ServerProcess, free_port, has_ended, listening
from tests.servers.waiting import comes_true

ROOT = Path(__file__).parents[2]
Start = Callable[..., tuple[ServerProcess, int]]


def get(port: int, path: str = "/", host: str = "127.0.0.1") -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://{host}:{port}{path}", timeout=60)


def worker(port: int) -> int:
    """Return the id of the process that answers."""
    return int(get(port).text.split()[0])


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """Start `work` in a thread, and return the thread and the list for its result."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(work())
        except requests.RequestException as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[ServerProcess] = []

    def run(workers: int = 1, grace: int = 30, host: str = "127.0.0.1") -> tuple[ServerProcess, int]:
        port = free_port()
        argv = [sys.executable, "-m", "tests.served_app", str(port), str(workers), str(grace), host]
        process = ServerProcess(argv, ready=listening(port), log=tmp_path / "log", cwd=ROOT, grace=40.0)
        process.start()
        started.append(process)
        return process, port

    yield run
    for process in started:
        process.stop()


@pytest.fixture
def fifo(tmp_path: Path) -> Iterator[FileIO]:
    """The FIFO that ends a `/wait`."""
    os.mkfifo(tmp_path / "fifo")
    with open(tmp_path / "fifo", "r+b", buffering=0) as fifo:
        yield fifo


@pytest.mark.parametrize("host", ["::", ""])
def test_all_addresses_include_ipv4_and_ipv6(start: Start, host: str) -> None:
    _, port = start(host=host)
    assert get(port).ok
    if socket.has_ipv6 and Path("/proc/net/if_inet6").exists():
        assert get(port, host="[::1]").ok


def test_a_host_name_is_resolved(start: Start) -> None:
    _, port = start(host="localhost")
    assert get(port).ok
    with pytest.raises(requests.ConnectionError):
        get(port, host="127.0.0.2")


def test_an_unknown_host_name_is_refused() -> None:
    with pytest.raises(CannotListen, match=r"cannot listen at nowhere\.invalid port 80"):
        resolve_host("nowhere.invalid", 80)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(CannotListen, match=r"203\.0\.113\.1 port 80: cannot assign requested address"):
        check_free("203.0.113.1", 80)


def test_a_second_server_is_refused_though_workers_share_their_port(start: Start) -> None:
    _, port = start()
    with pytest.raises(CannotListen, match="address already in use"):
        serve(build, "127.0.0.1", port, threads=1)


def test_a_lock_that_another_process_holds_is_refused(tmp_path: Path) -> None:
    lock, port = tmp_path / "state" / "lock", free_port()
    argv = [sys.executable, "-m", "tests.served_app", str(free_port()), "1", "30", "127.0.0.1", str(lock)]
    first = ServerProcess(argv, ready=lock.exists, log=tmp_path / "log", cwd=ROOT)
    first.start()
    try:
        with pytest.raises(CannotListen, match=f"another process holds {lock}"):
            serve(build, "127.0.0.1", port, threads=1, lock=lock)
    finally:
        first.stop()


def test_a_lock_that_cannot_be_created_names_the_key_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigInvalid, match=r"application\.state_dir: .*/file/state/lock .*not a directory: choose"
    ):
        serve(build, "127.0.0.1", free_port(), threads=1, lock=tmp_path / "file/state/lock")


def test_serving_is_logged_once_a_worker_accepts_connections(start: Start) -> None:
    process, port = start(workers=2)
    assert comes_true(lambda: "serving host=127.0.0.1" in process.log.read_text())
    lines = process.log.read_text().splitlines()
    assert lines[0] == "started"
    assert lines[1].endswith(f"serving host=127.0.0.1 port={port} workers=2")


def test_several_accept_lines_reach_the_app_as_one(start: Start) -> None:
    _, port = start()
    with socket.create_connection(("127.0.0.1", port), 60) as client:
        client.sendall(b"GET / HTTP/1.0\r\nAccept: a/b\r\nAccept: c/d, e/f\r\n\r\n")
        assert client.makefile("rb").read().endswith(b" a/b,c/d, e/f")


def test_the_server_refuses_most_malformed_requests(start: Start) -> None:
    _, port = start()
    for head, status in {
        "GET / HTTP/9.9\r\nHost: a": 400,
        "nonsense": 400,
        "GET / HTTP/1.1\r\nHost: a\r\nNo colon": 400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x": 400,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2": 400,
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: unknown": 400,
        f"GET /{'a' * 70_000} HTTP/1.1\r\nHost: a": 414,
        "GET / HTTP/1.1\r\nHost: a" + "\r\nX: a" * 200: 431,
        # These are left to nginx: see test_nginx.py.
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b": 200,
        "GET / HTTP/1.1": 200,
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0": 200,
    }.items():
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            client.sendall(f"{head}\r\n\r\n".encode())
            assert client.recv(1000).startswith(f"HTTP/1.1 {status} ".encode()), head


def test_idle_connections_delay_no_other(start: Start) -> None:
    _, port = start()
    idle = [socket.create_connection(("127.0.0.1", port), 60) for _ in range(1000)]
    for one in idle:
        one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert one.recv(1000).startswith(b"HTTP/1.1 200")
    assert get(port).ok
    for one in idle:
        one.close()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_after_requests_in_flight(
    start: Start, fifo: FileIO, workers: int, number: signal.Signals
) -> None:
    process, port = start(workers)
    seen: set[int] = set()
    assert comes_true(lambda: len(seen) == workers or seen.add(worker(port)))
    asking, answers = in_background(lambda: get(port, f"/wait?{fifo.name}").status_code)
    assert comes_true(lambda: "requested" in process.log.read_text())
    process.send_signal(number)
    assert comes_true(lambda: not listening(port)())
    fifo.write(b".")
    asking.join(60)
    assert answers == [200]
    assert process.exit_status() == 0
    assert process.log.read_text().count("closed") == workers


def test_a_signal_that_the_waiting_main_thread_does_not_notice_ends_the_server(start: Start) -> None:
    process, _ = start()
    assert comes_true(lambda: "serving" in process.log.read_text())
    other = next(one.id for one in psutil.Process(process.pid).threads() if one.id != process.pid)
    # As one that arrives just before the main thread waits: its system call is not interrupted.
    assert ctypes.CDLL(None).tgkill(process.pid, other, signal.SIGTERM) == 0
    assert process.exit_status() == 0


def test_an_answer_in_progress_is_sent_completely(start: Start) -> None:
    process, port = start()
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/large")
        answer = connection.getresponse()
        received = len(answer.read(1000))
        process.send_signal(signal.SIGTERM)
        assert comes_true(lambda: not listening(port)())
        while part := answer.read(1 << 20):
            received += len(part)
    assert received == LARGE
    assert process.exit_status() == 0


def test_a_request_that_does_not_finish_is_cut_off_after_the_grace(start: Start, fifo: FileIO) -> None:
    process, port = start(grace=1)
    asking, answers = in_background(lambda: get(port, f"/wait?{fifo.name}"))
    assert comes_true(lambda: "requested" in process.log.read_text())
    process.send_signal(signal.SIGTERM)
    assert process.exit_status() == 0
    asking.join(60)
    assert isinstance(answers[0], requests.ConnectionError)


def test_a_stuck_reader_does_not_delay_the_stop(start: Start) -> None:
    process, port = start(grace=1)
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/large")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGTERM)
        assert process.exit_status() == 0


def test_workers_share_the_requests(start: Start) -> None:
    process, port = start(2)
    seen: set[int] = set()
    assert comes_true(lambda: len(seen) == 2 or seen.add(worker(port)))
    assert process.pid not in seen


def test_a_worker_that_dies_is_replaced(start: Start) -> None:
    process, port = start()
    first = worker(port)
    with pytest.raises(requests.ConnectionError):
        get(port, "/crash")

    def replaced() -> bool:
        # Connections to the dead worker's socket may be reset for a moment.
        with suppress(requests.ConnectionError):
            return worker(port) != first
        return False

    assert comes_true(replaced)
    process.send_signal(signal.SIGTERM)
    assert process.exit_status() == 0


def test_a_hangup_replaces_the_worker_and_no_request_fails(start: Start) -> None:
    process, port = start()
    first = worker(port)
    process.send_signal(signal.SIGHUP)
    assert comes_true(lambda: worker(port) != first)
    assert comes_true(lambda: has_ended(first))
    assert get(port).ok


def test_an_app_that_cannot_be_built_ends_the_server() -> None:
    argv = [sys.executable, "-m", "tests.served_app", str(free_port())]
    ended = subprocess.run(
        argv,
        env={**os.environ, "CANNOT_BUILD": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert "ValueError: cannot be built" in ended.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_end_with_the_process_that_started_them(start: Start, workers: int) -> None:
    process, port = start(workers)
    assert comes_true(lambda: len(psutil.Process(process.pid).children(recursive=True)) >= workers)
    children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    os.kill(process.pid, signal.SIGKILL)
    assert comes_true(lambda: all(map(has_ended, children)))
    assert not listening(port)()


def test_the_soft_limit_of_descriptors_does_not_limit_connections(tmp_path: Path) -> None:
    port = free_port()
    program = f"{sys.executable} -m tests.served_app {port}"
    argv = ["sh", "-c", f"ulimit -Sn 64 && ulimit -Hn 1024 && exec {program}"]
    process = ServerProcess(argv, ready=listening(port), log=tmp_path / "log", cwd=ROOT)
    process.start()
    try:
        idle = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(200)]
        assert get(port).ok
        for one in idle:
            one.close()
    finally:
        process.stop()
