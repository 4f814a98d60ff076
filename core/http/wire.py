"""Connections on which no answer outlasts its deadline, and what goes wrong on them.

A socket's time-out counts from one byte to the next. Here each read from the socket is given no more than
what is left until the answer's deadline: status line, headers, the sizes of chunks, and the body.
"""

from __future__ import annotations

import io
import re
import socket
import ssl
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError
from urllib3.exceptions import SSLError as UrllibSSLError
from urllib3.exceptions import TimeoutError as WireTimeout

from core.errors import BadAnswer, ConnectionCut, RemoteError, TimedOut, Unavailable
from core.http.headers import Headers
from core.http.url import Target

WIRE_ERRORS = (HTTPError, HTTPException, OSError, ValueError)
"""Everything that sending a request and reading its answer may raise."""

_INTERIM = frozenset((*range(102, 200), 100))
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS = re.compile(r"[\r\n\0]")
_TLS_ERRORS = (ssl.SSLError, UrllibSSLError)


class Patience(float):
    """A read time-out in seconds that also knows its answer's deadline.

    `until` is on time.monotonic()'s clock and may be moved at any time.
    """

    until: float

    def __new__(cls, seconds: float, until: float) -> Patience:
        self = super().__new__(cls, seconds)
        self.until = until
        return self


class _PatientReader(io.RawIOBase):
    """Reads from a socket as long as the patience lasts; then TimeoutError."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._patience = patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self._patience.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the answer's deadline has passed")
        self._socket.settimeout(min(left, self._patience))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


class _PatientSocket:
    """The one thing of a socket that http.client's response uses: `makefile`."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._reader = _PatientReader(sock, patience)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self._reader, 64 * 1024)


class Connections:
    """Connections to one origin: those that are idle are used again, the last one first.

    Connecting is urllib3's, over TLS with `tls`; reading an answer is http.client's. urllib3's own way of
    asking costs the processor more than both (docs/decisions/manifest-speed.md). `keep` is how many
    idle ones are kept; more may be in use.
    """

    def __init__(self, target: Target, tls: ssl.SSLContext | None, keep: int) -> None:
        self._target = target
        self._tls = tls
        self._keep = keep
        self._idle: list[HTTPConnection] = []
        weakref.finalize(self, _close_all, self._idle)

    def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | None,
        connect_timeout: float,
        patience: Patience,
    ) -> Exchange:
        """Send a request and read the head of its answer. Raises one of WIRE_ERRORS."""
        head = _head(method, path, {"Host": self._target.netloc, **headers}, body)
        connection = self._take()
        try:
            if connection.sock is None:
                connection.timeout = connect_timeout
                connection.connect()
            connection.sock.settimeout(min(patience, patience.until - time.monotonic()))
            # A server that has heard enough may answer before it has all of the body.
            with suppress(BrokenPipeError):
                connection.sock.sendall(head + body if body else head)
            return Exchange(self, connection, method, patience)
        except BaseException:
            connection.close()
            raise

    def take_back(self, connection: HTTPConnection) -> None:
        """Keep a connection for the next request."""
        self._idle.append(connection)
        if len(self._idle) > self._keep:
            self._idle.pop(0).close()

    def close(self) -> None:
        """Close those that are idle, and those in use when they come back."""
        self._keep = 0
        _close_all(self._idle)

    def _take(self) -> HTTPConnection:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                if self._tls is None:
                    return HTTPConnection(self._target.host, self._target.port)
                return HTTPSConnection(self._target.host, self._target.port, ssl_context=self._tls)
            if connection.is_connected:
                return connection
            connection.close()


def _close_all(connections: list[HTTPConnection]) -> None:
    while connections:
        connections.pop().close()


class Exchange:
    """An answer that is being read: status and headers are there, the body comes piece by piece."""

    def __init__(
        self, connections: Connections, connection: HTTPConnection, method: str, patience: Patience
    ) -> None:
        # http.client uses nothing of a socket but `makefile`.
        sock: Any = _PatientSocket(connection.sock, patience)
        self._response = HTTPResponse(sock, method=method)
        try:
            self._response.begin()
            while self._response.status in _INTERIM:
                # http.client skips 100 by itself, and takes the others for the answer (RFC 9110, 15.2).
                self._response.headers = None  # type: ignore[assignment]  # so that it reads on
                self._response.begin()
            if self._response.status == 101:
                raise HTTPException("it changes the protocol, which nobody asked for")
            self.headers = Headers(tuple(self._response.headers.raw_items()))
            if self.headers.all("Content-Length") and self.headers.number("Content-Length") is None:
                raise HTTPException("its length is no number")
        except BaseException:
            self._response.close()
            raise
        self._connections = connections
        self._connection = connection
        self._ended = False
        self.status = self._response.status

    @property
    def at_end(self) -> bool:
        """Whether nothing of the answer is left on the wire."""
        left = self._response.length
        return left == 0 or (left is None and self._response.isclosed())

    def read(self, most: int) -> bytes:
        """What is there of the body, up to `most` bytes; nothing at its end. Raises one of WIRE_ERRORS."""
        data = self._response.read1(most)
        if not data and self._response.length:
            raise IncompleteRead(b"", self._response.length)
        return data

    def interrupt(self) -> None:
        """Wake whoever reads, in another thread. Raises OSError or ValueError where nobody can be reading."""
        if not self._ended and self._connection.sock is not None:
            self._connection.sock.shutdown(socket.SHUT_RD)

    def end(self) -> None:
        """Free the connection: for the next request if nothing is left on it, else by closing it.

        Once: by a second time the connection may be another's.
        """
        if self._ended:
            return
        self._ended = True
        again = self.at_end and not self._response.will_close
        self._response.close()
        if again:
            self._connections.take_back(self._connection)
        else:
            self._connection.close()


def _head(method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
    """A request's head (RFC 9112, 3 and 5). Raises ValueError, which does not show what is wrong."""
    lines = [f"{method} {path} HTTP/1.1"]
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or _CONTROLS.search(value):
            raise ValueError("a header that HTTP does not allow")
        lines.append(f"{name}: {value}")
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def as_http_error(error: Exception, where: str, seconds: float, received: int | None) -> RemoteError:
    """The RemoteError that one of WIRE_ERRORS amounts to.

    `received` is how many bytes of the body had come, None before the answer began. What libraries
    say is passed on where it cannot hold a header of ours or a query, and cut short.
    """
    if isinstance(error, (WireTimeout, TimeoutError)) and not isinstance(error, NewConnectionError):
        return TimedOut(where, seconds)
    if isinstance(error, NameResolutionError):
        return Unavailable(where, "its host name cannot be resolved")
    if isinstance(error, NewConnectionError):
        return Unavailable(where, _short(error.__cause__ or "no connection"))
    if isinstance(error, _TLS_ERRORS) and received is None:
        return Unavailable(where, f"TLS: {_short(error)}")
    if isinstance(error, IncompleteRead):
        return ConnectionCut(where, received or 0, "the body is shorter than announced")
    if isinstance(error, (*_TLS_ERRORS, OSError)):
        return ConnectionCut(where, received or 0, _short(error))
    if isinstance(error, (HTTPException, HTTPError)):
        return BadAnswer(where, f"{type(error).__name__}: {_short(error)}")
    # ValueError: http.client shows the header that it refuses, which may be a credential.
    return BadAnswer(where, "the exchange cannot be put into HTTP")


def _short(error: object) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    shown = "".join(sign if sign.isprintable() else "?" for sign in text[:101])
    return shown if len(shown) <= 100 else shown[:97] + "..."
