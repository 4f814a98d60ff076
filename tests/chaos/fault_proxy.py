"""A slow HTTP proxy in front of one server that can be made to fail: 503, delays, truncated bodies."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

BLOCK_BYTES = 32 * 1024
TIMEOUT_SECONDS = 60

Fault = Literal["none", "unavailable", "slow", "cut"]

_UNAVAILABLE = b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>chaos</Message></Error>'
_HOP_BY_HOP = frozenset(("connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade"))


class FaultProxy:
    """Passes requests on to the server at `target` (`host:port`), bodies at `rate` bytes a second each.

    `fault` applies to requests that start after it is set: `unavailable` answers 503, `slow` waits `delay` seconds
    before it passes a request on, `cut` ends each answer in the middle of its body.
    """

    def __init__(self, target: str, rate: float, delay: float = 3.0) -> None:
        self.fault: Fault = "none"
        self.failed = 0
        self._target = target
        self._rate = rate
        self._delay = delay
        self._closing = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = TIMEOUT_SECONDS

            def do_GET(self) -> None:
                with suppress(OSError, HTTPException):
                    proxy.pass_on(self)
                    return
                self.close_connection = True

            do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

            def log_message(self, format: str, *args: object) -> None:
                """Log nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """Clients that leave are part of the test."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.netloc = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.netloc}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="fault-proxy")
        self._thread.start()

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request. Raises OSError, HTTPException; the connection then ends."""
        body = request.rfile.read(int(request.headers.get("Content-Length", "0")))
        fault = self.fault
        if fault != "none":
            self.failed += 1
        if fault == "unavailable":
            _answer_unavailable(request)
            return
        if fault == "slow":
            self._closing.wait(self._delay)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
        with closing(HTTPConnection(self._target, timeout=TIMEOUT_SECONDS)) as server:
            server.request(request.command, request.path, body=body or None, headers=headers)
            answer = server.getresponse()
            length = int(answer.headers.get("Content-Length", "0"))
            request.send_response_only(answer.status, answer.reason)
            for name, value in answer.headers.items():
                if name.lower() not in _HOP_BY_HOP:
                    request.send_header(name, value)
            if "Content-Length" not in answer.headers and answer.status >= 200 and answer.status != 204:
                request.send_header("Connection", "close")
                request.close_connection = True
            request.end_headers()
            last = length // 2 if fault == "cut" else None
            sent, began = 0, time.monotonic()
            while block := answer.read(BLOCK_BYTES):
                if last is not None and sent + len(block) > last:
                    request.wfile.write(block[: max(0, last - sent)])
                    request.close_connection = True
                    return
                request.wfile.write(block)
                sent += len(block)
                self._closing.wait(max(0.0, began + sent / self._rate - time.monotonic()))

    def close(self) -> None:
        """Stop accepting. Requests in progress continue."""
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _answer_unavailable(request: BaseHTTPRequestHandler) -> None:
    request.send_response_only(503, "Slow Down")
    request.send_header("Content-Type", "application/xml")
    request.send_header("Content-Length", str(len(_UNAVAILABLE)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(_UNAVAILABLE)


@contextmanager
def start_fault_proxy(target: str, rate: float) -> Iterator[FaultProxy]:
    """Run a proxy in front of the server at `target` (`host:port`, or a URL of it)."""
    proxy = FaultProxy(target.rpartition("//")[2], rate)
    try:
        yield proxy
    finally:
        proxy.close()
