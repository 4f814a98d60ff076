"""Connections on which no answer outlasts its deadline, and what goes wrong on them.

A socket's time-out counts from one byte to the next. Here each read from the socket is given no more than
what is left until the answer's deadline: status line, headers, the sizes of chunks, and the body.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPException, HTTPResponse
from http.client import IncompleteRead as HttpClientIncompleteRead
from typing import Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    HTTPError,
    IncompleteRead,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    SSLError,
)
from urllib3.exceptions import TimeoutError as WireTimeout

from core.http_errors import HttpCut, HttpError, HttpNonsense, HttpTimeout, HttpUnreachable

WIRE_ERRORS = (HTTPError, HTTPException, OSError, ValueError)
"""Everything that sending a request and reading its answer may raise."""


class Patience(float):
    """A read time-out in seconds that also knows its answer's deadline.

    urllib3 hands a request's read time-out through to the connection that serves it; so this is how
    the deadline gets there. `until` is on time.monotonic()'s clock and may be moved at any time.
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


class _Patient:
    """Has a connection's responses read with the patience of their request."""

    timeout: Any

    def response_class(self, sock: socket.socket, *args: Any, **kwargs: Any) -> HTTPResponse:
        # http.client calls what is usually its class HTTPResponse.
        patience = self.timeout
        if not isinstance(patience, Patience):
            patience = Patience(patience, time.monotonic() + patience)
        return HTTPResponse(_PatientSocket(sock, patience), *args, **kwargs)  # type: ignore[arg-type] # see there


# http.client declares response_class as a class; a method does as well, and knows its connection.
class PatientHTTPConnection(_Patient, HTTPConnection):  # type: ignore[misc] # see above
    """A plain connection of this kind."""


class PatientHTTPSConnection(_Patient, HTTPSConnection):  # type: ignore[misc] # see above
    """A TLS connection of this kind."""


class PatientHTTPPool(HTTPConnectionPool):
    """A pool of the former."""

    ConnectionCls = PatientHTTPConnection


class PatientHTTPSPool(HTTPSConnectionPool):
    """A pool of the latter."""

    ConnectionCls = PatientHTTPSConnection


POOLS = {"http": PatientHTTPPool, "https": PatientHTTPSPool}


def as_http_error(error: Exception, where: str, seconds: float, received: int | None) -> HttpError:
    """The HttpError that one of WIRE_ERRORS amounts to.

    `received` is how many bytes of the body had come, None before the answer began. What libraries
    say is passed on where it cannot hold a header of ours or a query, and cut short.
    """
    cause: BaseException = error
    if isinstance(error, ProtocolError) and isinstance(error.args[-1], Exception):
        cause = error.args[-1]
    if isinstance(cause, (WireTimeout, TimeoutError)) and not isinstance(cause, NewConnectionError):
        return HttpTimeout(where, seconds)
    if isinstance(cause, NameResolutionError):
        return HttpUnreachable(where, "its host name cannot be resolved")
    if isinstance(cause, NewConnectionError):
        return HttpUnreachable(where, _short(cause.__cause__ or "no connection"))
    if isinstance(cause, SSLError) and received is None:
        return HttpUnreachable(where, f"TLS: {_short(cause)}")
    if isinstance(cause, (IncompleteRead, HttpClientIncompleteRead)):
        return HttpCut(where, received or 0, "the body is shorter than announced")
    if isinstance(cause, (SSLError, OSError)):
        return HttpCut(where, received or 0, _short(cause))
    if isinstance(cause, (HTTPException, HTTPError)):
        return HttpNonsense(where, f"{type(cause).__name__}: {_short(cause)}")
    # ValueError: http.client shows the header that it refuses, which may be a credential.
    return HttpNonsense(where, "the exchange cannot be put into HTTP")


def _short(error: object) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    shown = "".join(sign if sign.isprintable() else "?" for sign in text[:101])
    return shown if len(shown) <= 100 else shown[:97] + "..."
