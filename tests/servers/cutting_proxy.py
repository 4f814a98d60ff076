"""A TCP proxy in front of a real server that cuts, stalls, silences or throttles connections."""

from __future__ import annotations

import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.servers.process import free_port, listening, running

BLOCK_BYTES = 64 * 1024
_SLICE_SECONDS = 0.01
_RESET = struct.pack("ii", 1, 0)

How = Literal["end", "reset", "stall"]


@dataclass
class _Fault:
    how: How
    after: int
    times: int


class CuttingProxy:
    """Passes bytes on between its clients and one server, until a fault is set.

    Faults apply to open connections too. `connections` counts the accepted ones, `broken` those that a
    fault ended.
    """

    def __init__(self, listener: socket.socket, target: tuple[str, int]) -> None:
        self.host, self.port = listener.getsockname()[:2]
        self.connections = 0
        self.broken = 0
        self.most_at_once = 0
        self._listener = listener
        self._target = target
        self._lock = threading.Lock()
        self._fault: _Fault | None = None
        self._silent = False
        self._rate: float | None = None
        self._closing = threading.Event()
        self._open: set[_Passage] = set()
        self._acceptor = threading.Thread(target=self._accept, name=f"proxy-{self.port}")
        self._acceptor.start()

    @property
    def netloc(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end."""
        return f"http://{self.netloc}"

    def break_after(self, count: int, *, times: int = 1, how: How = "end") -> None:
        """Break the next `times` connections over which `count` bytes have come from the server, heads
        of answers included: end or reset them, or pass nothing more on.
        """
        with self._lock:
            self._fault = _Fault(how, count, times)

    def be_silent(self, silent: bool = True) -> None:
        """Accept connections, and pass nothing on from the server."""
        self._silent = silent

    def throttle(self, bytes_per_second: float | None) -> None:
        """Limit the rate of each connection; None removes the limit."""
        self._rate = bytes_per_second

    def close(self) -> None:
        """Stop accepting, break every connection, wait for the threads."""
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            left = list(self._open)
        for passage in left:
            passage.close()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            passage = _Passage(self, client, self._target)
            with self._lock:
                self.connections += 1
                self._open.add(passage)
                self.most_at_once = max(self.most_at_once, len(self._open))
            passage.start()

    def _takes_fault(self, passed: int, coming: int) -> tuple[How, int] | None:
        """Return how to break a connection after `passed` bytes, and how many of the next to pass on."""
        with self._lock:
            fault = self._fault
            if fault is None or fault.times == 0 or passed + coming < fault.after:
                return None
            fault.times -= 1
            self.broken += 1
            return fault.how, max(0, fault.after - passed)

    def _left(self, passage: _Passage) -> None:
        with self._lock:
            self._open.discard(passage)


class _Passage:
    """One client's connection and the one to the server that belongs to it, with a thread each way."""

    def __init__(self, proxy: CuttingProxy, client: socket.socket, target: tuple[str, int]) -> None:
        self._proxy = proxy
        self._client = client
        self._server = socket.create_connection(target)
        # Closing it resets the connection. Without that, a server that is sending while the buffer here is
        # full would wait for more than a minute: after the shutdown no room is announced.
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._resetting = False
        self._threads = [
            threading.Thread(target=self._upwards, name="proxy-up"),
            threading.Thread(target=self._downwards, name="proxy-down"),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._hang_up()
        for thread in self._threads:
            thread.join()

    def _upwards(self) -> None:
        with suppress(OSError):
            while block := self._client.recv(BLOCK_BYTES):
                self._server.sendall(block)
        self._hang_up()

    def _downwards(self) -> None:
        try:
            with suppress(OSError):
                self._pass_down()
            self._hang_up()
        finally:
            self._threads[0].join()
            self._client.close()
            self._server.close()
            self._proxy._left(self)

    def _pass_down(self) -> None:
        proxy, passed, due = self._proxy, 0, 0.0
        while block := self._server.recv(BLOCK_BYTES):
            while proxy._silent and not proxy._closing.wait(_SLICE_SECONDS):
                pass
            broken = proxy._takes_fault(passed, len(block))
            if broken is not None:
                how, last = broken
                self._client.sendall(block[:last])
                if how == "stall":
                    proxy._closing.wait()
                elif how == "reset":
                    self._resetting = True
                    self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                return
            self._client.sendall(block)
            passed += len(block)
            rate, now = proxy._rate, time.monotonic()
            if rate is not None:
                # No credit for idle time.
                due = max(due, now) + len(block) / rate
                proxy._closing.wait(due - now)

    def _hang_up(self) -> None:
        with suppress(OSError):
            # A connection to be reset must not be shut down in order before it is closed.
            self._client.shutdown(socket.SHUT_RD if self._resetting else socket.SHUT_RDWR)
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)


@contextmanager
def start_cutting_proxy(target: str, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[CuttingProxy]:
    """Run a proxy in front of the server at `target` (`host:port`, or a URL of it). Port 0 selects a free one."""
    server, _, server_port = target.rpartition("//")[2].partition(":")
    proxy = CuttingProxy(socket.create_server((host, port), backlog=128), (server, int(server_port)))
    try:
        yield proxy
    finally:
        proxy.close()


@contextmanager
def start_throttling_process(folder: Path, target: str, bytes_per_second: int) -> Iterator[str]:
    """Run a throttling proxy in a separate process, for the sake of the caller's interpreter. Yields its URL."""
    port = free_port()
    argv = [sys.executable, "-m", "tests.servers.cutting_proxy", target, str(port), str(bytes_per_second)]
    with running(
        argv,
        ready=listening(port),
        log=folder / "throttling.log",
        cwd=Path(__file__).resolve().parents[2],
    ):
        yield f"http://127.0.0.1:{port}"


if __name__ == "__main__":
    with start_cutting_proxy(sys.argv[1], port=int(sys.argv[2])) as throttling:
        throttling.throttle(float(sys.argv[3]))
        signal.pause()
