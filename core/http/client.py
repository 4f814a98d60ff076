"""HTTP for everything in here that asks another server.

What it adds: redirects followed by hand, so that credentials stay with the origin that they are for;
limits on what is read into memory; deadlines that a slow drip cannot outlast; bodies that are shorter
than announced told from whole ones; and one small set of errors (core/http/errors.py) with no secrets in
them.

Neither proxies nor .netrc are looked up in the environment.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.exceptions import ConnectTimeoutError

from core.errors import BadAnswer, TimedOut
from core.http.headers import Headers
from core.http.stream import HttpStream
from core.http.url import Origin, Target, parse_url
from core.http.wire import WIRE_ERRORS, Connections, Exchange, Patience, as_http_error

REDIRECTS = frozenset((301, 302, 303, 307, 308))
MAX_REDIRECTS = 5
BODY_LIMIT = 4 * 1024 * 1024
"""What `fetch` reads into memory at most, in bytes, unless told otherwise."""

MAX_ORIGINS = 64
"""To how many hosts connections are kept open."""

_SAFE = frozenset(("GET", "HEAD"))
_CREDENTIALS = frozenset(("authorization", "proxy-authorization", "cookie"))
# Ours to set: they belong to the connection, or would have the body changed on its way.
_OURS = frozenset(("accept-encoding", "connection", "content-length", "host", "te", "transfer-encoding"))
_HANG_UPS = (ConnectionResetError, BrokenPipeError)
"""http.client's RemoteDisconnected is the first of them."""


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A whole answer. `target` is where it came from in the end, after redirects."""

    status: int
    headers: Headers
    body: bytes
    target: Target


class HttpClient:
    """Asks servers over HTTP, from any number of threads; connections are kept open and shared.

    Time-outs are in seconds. `connect_timeout` is for a connection to stand, TLS included;
    `read_timeout` for the next byte. `pool_size` is how many idle connections to one host are kept;
    more may be in use.
    """

    def __init__(
        self,
        connect_timeout: float,
        read_timeout: float,
        *,
        pool_size: int = 64,
        user_agent: str = "docker-torrents",
    ) -> None:
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._user_agent = user_agent
        self._pool_size = pool_size
        self._pools: dict[Origin, Connections] = {}
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = threading.Lock()
        # Its own lines show URLs as they are, with signatures in them.
        logging.getLogger("urllib3").setLevel(logging.CRITICAL)

    def fetch(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        limit: int = BODY_LIMIT,
        seconds: float | None = None,
        follow: bool = True,
    ) -> HttpAnswer:
        """The whole answer, which has to be here within `seconds` (by default both time-outs together).

        Redirects of GET and HEAD are followed unless `follow` is false; then `headers` may have a `Host`
        other than the URL's. An answer of any status is an answer; RemoteError is raised where there is none:
        a body of more than `limit` bytes included.
        """
        seconds = self._connect_timeout + self._read_timeout if seconds is None else seconds
        with self._open(method, url, headers, body, seconds, follow) as stream:
            return HttpAnswer(stream.status, stream.headers, stream.read(limit), stream.target)

    def open(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, follow: bool = True
    ) -> HttpStream:
        """An answer whose body is read by the caller, who closes it. Raises RemoteError as `fetch` does.

        Its head has to be here within both time-outs together; for the body see HttpStream.readinto.
        """
        return self._open(method, url, headers, None, self._connect_timeout + self._read_timeout, follow)

    def close(self) -> None:
        """Close the idle connections."""
        while self._pools:
            self._pools.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.close()

    def _open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        body: bytes | None,
        seconds: float,
        follow: bool,
    ) -> HttpStream:
        patience = Patience(self._read_timeout, time.monotonic() + seconds)
        try:
            target = parse_url(url)
        except ValueError as error:
            raise BadAnswer("a URL", str(error)) from None
        sent = self._headers(headers, follow)
        seen = {target}
        while True:
            exchange = self._send(method, target, sent, body, patience, seconds)
            stream = HttpStream(exchange, target, patience, seconds)
            if not follow or stream.status not in REDIRECTS or method not in _SAFE:
                return stream
            with stream:
                onward = _location(stream)
                if onward in seen:
                    raise BadAnswer(str(target), f"a redirect loop at {onward}")
                if len(seen) > MAX_REDIRECTS:
                    raise BadAnswer(str(target), f"more than {MAX_REDIRECTS} redirects")
                stream.discard()
            if onward.origin != target.origin:
                # For good: they do not come back if a later redirect leads back.
                sent = {name: value for name, value in sent.items() if name.lower() not in _CREDENTIALS}
            seen.add(onward)
            target = onward

    def _headers(self, headers: Mapping[str, str] | None, follow: bool) -> dict[str, str]:
        sent = {"Accept-Encoding": "identity", "User-Agent": self._user_agent}
        for name, value in (headers or {}).items():
            lower = name.lower()
            if lower == "user-agent":
                sent["User-Agent"] = value
            elif lower == "host" and not follow:
                sent["Host"] = value
            elif lower not in _OURS:
                sent[name] = value
        return sent

    def _send(
        self,
        method: str,
        target: Target,
        headers: dict[str, str],
        body: bytes | None,
        patience: Patience,
        seconds: float,
    ) -> Exchange:
        """The answer with its head read. Raises RemoteError."""
        again = method in _SAFE
        while True:
            left = patience.until - time.monotonic()
            if left <= 0:
                raise TimedOut(str(target), seconds)
            try:
                connect_timeout = min(self._connect_timeout, left)
                return self._pool(target).ask(method, target.path, headers, body, connect_timeout, patience)
            except WIRE_ERRORS as error:
                # A server may close an idle connection in the moment in which a request is put on it:
                # what has no effect is asked once more (RFC 9110, 9.2.2).
                if again and isinstance(error, _HANG_UPS):
                    again = False
                    continue
                waited = self._connect_timeout if isinstance(error, ConnectTimeoutError) else seconds
                raise as_http_error(error, str(target), waited, None) from error

    def _pool(self, target: Target) -> Connections:
        pool = self._pools.get(target.origin)
        if pool is None:
            tls = self._tls_context() if target.scheme == "https" else None
            pool = Connections(target, tls, self._pool_size)
            if len(self._pools) >= MAX_ORIGINS:
                self.close()
            pool = self._pools.setdefault(target.origin, pool)
        return pool

    def _tls_context(self) -> ssl.SSLContext:
        """The one TLS context of this client: reading the certificates takes some 20 ms."""
        with self._tls_lock:
            if self._tls is None:
                # The system's certificates, where a company puts its own, and those of requests.
                self._tls = ssl.create_default_context()
                self._tls.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
            return self._tls


def _location(stream: HttpStream) -> Target:
    location = stream.headers.get("Location")
    if not location:
        raise BadAnswer(str(stream.target), f"a redirect ({stream.status}) without a Location")
    return stream.target.join(location)
