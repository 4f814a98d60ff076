"""`/metrics` on a separate port, for a process that serves nothing else."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

from core.listening import cannot_listen, resolve_host
from core.metrics import Readings, render
from core.networks import Networks, is_within, parse_address

_SECONDS = 10.0
"""How long a client may be silent."""

MAX_CLIENTS = 8
"""Connections that are answered at once, each by a thread; further ones are closed."""

log = logging.getLogger(__name__)


class _Server(ThreadingTCPServer):
    """Answers callers from `networks`; the connections of others are closed."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: str, port: int, networks: Networks, read: Callable[[], Readings]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.networks, self.read = networks, read
        self._free = threading.BoundedSemaphore(MAX_CLIENTS)
        super().__init__((address, port), _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """See socketserver.BaseServer."""
        return is_within(parse_address(client_address[0].partition("%")[0]), self.networks)

    def process_request(self, request: Any, client_address: Any) -> None:
        """See socketserver.BaseServer."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # The thread did not start.
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """See socketserver.ThreadingMixIn."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """See socketserver.BaseServer."""
        log.debug("metrics not sent", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = _SECONDS
    server: _Server

    def do_GET(self) -> None:
        """See BaseHTTPRequestHandler."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404)
            return
        text, content_type = render(self.server.read())
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: Any) -> None:
        """See BaseHTTPRequestHandler."""
        log.debug("metrics requested")


@contextmanager
def serve_metrics(host: str, port: int, networks: Networks, read: Callable[[], Readings]) -> Iterator[None]:
    """Serve `/metrics` within the block, with the gauges that `read` returns. Raises CannotListen."""
    address = resolve_host(host, port)
    try:
        server = _Server(address, port, networks, read)
    except OSError as error:
        raise cannot_listen(address, port, error) from error
    with server:
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        log.info("serving metrics host=%s port=%d", host or address, port)
        try:
            yield
        finally:
            server.shutdown()
