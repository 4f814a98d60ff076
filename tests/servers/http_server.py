"""An HTTP server over real sockets, in threads of the test, whose every answer is a callable.

One request per connection: the next request always gets a new one.
"""

from __future__ import annotations

import io
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.client import parse_headers
from urllib.parse import parse_qs, urlsplit

MAX_LINE_BYTES = 1 << 20
IDLE_SECONDS = 60


@dataclass
class Request:
    """A received request. `path` is without the query, still percent-encoded.

    `headers` ignores the case of names. `sent` counts the bytes of the answer sent so far, with its head.
    """

    method: str
    path: str
    query: dict[str, list[str]]
    headers: Message
    body: bytes
    sent: int = 0


@dataclass
class Connection:
    """The client's side of one request, for an answer to write to."""

    socket: socket.socket
    request: Request
    closing: threading.Event = field(repr=False)

    def send(self, data: bytes) -> None:
        """Send bytes unchanged. Raises OSError when the client has left."""
        for start in range(0, len(data), 1 << 16):
            part = data[start : start + (1 << 16)]
            self.socket.sendall(part)
            self.request.sent += len(part)

    def send_head(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status line, these headers and `Connection: close`."""
        lines = [
            f"HTTP/1.1 {status} {_phrase(status)}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        self.send(("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("latin-1"))

    def reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send a complete answer; to HEAD without its body."""
        self.send_head(status, {"Content-Length": str(len(body)), **(headers or {})})
        if self.request.method != "HEAD":
            self.send(body)

    def pause(self, seconds: float | None = None) -> None:
        """Wait that long, or until the server closes. Raises ConnectionAbortedError then."""
        if self.closing.wait(seconds):
            raise ConnectionAbortedError

    def reset(self) -> None:
        """End the connection with a TCP reset instead of an orderly close."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


Answer = Callable[[Request, Connection], None]


class HttpServer:
    """Answers each request by its path: an exact one first, then the longest prefix, then 404."""

    def __init__(self, listener: socket.socket) -> None:
        self.requests: list[Request] = []
        self.host, self.port = listener.getsockname()[:2]
        self._listener = listener
        self._exact: dict[str, Answer] = {}
        self._prefixes: dict[str, Answer] = {}
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closing = threading.Event()
        self._acceptor = threading.Thread(target=self._accept, name=f"accept-{self.port}")
        self._acceptor.start()

    @property
    def netloc(self) -> str:
        """`host:port`."""
        return f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end."""
        return f"http://{self.netloc}"

    def on(self, path: str, answer: Answer) -> None:
        """Answer requests of `path`, or of all paths below it if it ends in `*`, in this way from now on."""
        if path.endswith("*"):
            self._prefixes[path[:-1]] = answer
        else:
            self._exact[path] = answer

    def requests_of(self, path: str) -> list[Request]:
        """Return the requests of one path, in order."""
        return [request for request in self.requests if request.path == path]

    def close(self) -> None:
        """Stop accepting, break every connection, wait for the threads."""
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._acceptor.join()
        self._listener.close()
        with self._lock:
            left = list(self._open.items())
        for connection, thread in left:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,), name=f"serve-{self.port}")
            with self._lock:
                self._open[connection] = thread
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # Many of these answers make the client leave early.
        try:
            with connection, suppress(ConnectionError, TimeoutError):
                connection.settimeout(IDLE_SECONDS)
                request = _read_request(connection)
                if request is not None:
                    self.requests.append(request)
                    self._answer_to(request.path)(request, Connection(connection, request, self._closing))
        finally:
            with self._lock:
                del self._open[connection]

    def _answer_to(self, path: str) -> Answer:
        if path in self._exact:
            return self._exact[path]
        for prefix in sorted(self._prefixes, key=len, reverse=True):
            if path.startswith(prefix):
                return self._prefixes[prefix]
        return _not_found


@contextmanager
def start_http_server(*, host: str = "127.0.0.1", port: int = 0) -> Iterator[HttpServer]:
    """Run a server without paths; add them with `on`. Port 0 selects a free one."""
    server = HttpServer(socket.create_server((host, port), backlog=512))
    try:
        yield server
    finally:
        server.close()


def _not_found(request: Request, connection: Connection) -> None:
    connection.reply(404, b"no answer was written for this path\n")


def _read_request(connection: socket.socket) -> Request | None:
    """Return the request; None if the client closes without one, or sends something else."""
    with connection.makefile("rb") as stream:
        words = stream.readline(MAX_LINE_BYTES).decode("latin-1").split()
        if len(words) != 3:
            return None
        headers = parse_headers(stream)
        if headers.get("Expect", "").lower() == "100-continue":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        url = urlsplit(words[1])
        query = parse_qs(url.query, keep_blank_values=True)
        return Request(words[0], url.path, query, headers, _read_body(stream, headers))


def _read_body(stream: io.BufferedIOBase, headers: Message) -> bytes:
    if headers.get("Transfer-Encoding", "").lower() != "chunked":
        return stream.read(int(headers.get("Content-Length", "0")))
    body = b""
    while size := int(stream.readline(MAX_LINE_BYTES).split(b";")[0], 16):
        body += stream.read(size)
        stream.readline(MAX_LINE_BYTES)
    return body


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
