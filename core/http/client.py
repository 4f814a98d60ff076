"""The HTTP client for every request to another server, over requests.

It adds to requests: redirects followed here, so that credentials stay with their origin; limits on the
memory for bodies; deadlines; one small set of errors without secrets (core/errors.py). The
environment's proxies, certificates and .netrc are ignored: core/clients.py passes the configured ones.

A deadline is checked before each request is sent, and after each part of a body that `fetch` reads. In
between, each wait for bytes has its own time-out, no longer than the time that was left when the request was
sent: a server that sends the head of its answer byte by byte exceeds the deadline.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Self

import requests
from requests.adapters import HTTPAdapter
from requests.structures import CaseInsensitiveDict

from core.errors import BadAnswer, TimedOut, Unavailable
from core.http.failures import FAILURES, SPEAKS_TLS, as_remote_error, is_hang_up
from core.http.headers import Headers
from core.http.stream import HttpStream
from core.http.tls import system_store
from core.http.url import Target, target_of
from core.logs import current_request_id
from core.metrics import WAIT_SECONDS

log = logging.getLogger(__name__)

REDIRECTS = frozenset((301, 302, 303, 307, 308))
MAX_REDIRECTS = 5
BODY_LIMIT = 4 * 1024 * 1024
"""The default limit of `fetch` for a body, in bytes."""

MAX_ORIGINS = 64
"""The number of servers to which connections are kept open."""

_SAFE = frozenset(("GET", "HEAD"))
_CREDENTIALS = frozenset(("authorization", "proxy-authorization", "cookie"))
# Set by this client: they belong to the connection, or change how the body is sent.
_OWN = frozenset(("accept-encoding", "connection", "content-length", "host", "te", "transfer-encoding"))
# The answers of Go's net/http and nginx to plain HTTP at a TLS port.
_TLS_PORT_ANSWERS = (b"HTTP request to an HTTPS server", b"plain HTTP request was sent to HTTPS port")


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """A complete answer. `target` is its origin, after redirects."""

    status: int
    headers: Headers
    body: bytes
    target: Target


class HttpClient:
    """Sends requests, from any number of threads; connections are kept open and shared.

    Time-outs are in seconds: `connect_timeout` for the connection, `read_timeout` for the next bytes.
    `pool_size` is how many idle connections to one server are kept. `ca_bundle` is a file of the trusted
    certificates, by default the system's; `proxy` the URL of a proxy for all requests. `resource` is the
    label of these servers in the metric of waiting, if any.
    """

    def __init__(
        self,
        connect_timeout: float,
        read_timeout: float,
        *,
        pool_size: int = 64,
        ca_bundle: str | None = None,
        proxy: str | None = None,
        resource: str | None = None,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._read_timeout = read_timeout
        self._resource = resource
        self._ca_bundle = ca_bundle or system_store()
        self._proxies = {"http": proxy, "https": proxy} if proxy else None
        # For its adapters, which keep the connections; its own `send` reads the body of a redirect without a
        # limit, and applies the environment's settings.
        self._session = requests.Session()
        adapter = HTTPAdapter(pool_connections=MAX_ORIGINS, pool_maxsize=pool_size)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        # Its log lines show URLs with signatures in them.
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
        """Return the whole answer, of any status.

        The deadline (see above) is in `seconds`, by default both time-outs together. With more seconds than
        the read time-out the server may also be silent for as long.

        Redirects of GET and HEAD are followed unless `follow` is false; then `headers` may have a `Host`
        other than the URL's. Raises RemoteError; BadAnswer for a body of more than `limit` bytes.
        """
        with self.open(method, url, headers=headers, body=body, seconds=seconds, follow=follow) as stream:
            answer = HttpAnswer(stream.status, stream.headers, stream.read(limit), stream.target)
        if answer.status == 400 and _is_tls_port(answer):
            raise Unavailable(str(answer.target), SPEAKS_TLS)
        return answer

    def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float | None = None,
        follow: bool = True,
    ) -> HttpStream:
        """Return an answer whose body the caller reads and closes. Raises RemoteError as `fetch` does.

        `seconds` are as in `fetch`, but do not limit the body: see HttpStream.readinto.
        """
        read_timeout = max(self._read_timeout, seconds or 0)
        seconds = self._connect_timeout + self._read_timeout if seconds is None else seconds
        until = time.monotonic() + seconds
        target = target_of(url)
        sent = self._headers(headers, follow)
        seen = {target}
        while True:
            with WAIT_SECONDS.timed(self._resource) if self._resource else nullcontext():
                stream = self._send(method, target, sent, body, until, seconds, read_timeout)
            if not follow or stream.status not in REDIRECTS or method not in _SAFE:
                return stream
            with stream:
                next_target = _location(stream)
                if next_target in seen:
                    raise BadAnswer(str(target), f"a redirect loop at {next_target}")
                if len(seen) > MAX_REDIRECTS:
                    raise BadAnswer(str(target), f"more than {MAX_REDIRECTS} redirects")
                stream.discard()
            if next_target.origin != target.origin:
                # Permanently: a later redirect back to the first origin does not get them either.
                sent = {name: value for name, value in sent.items() if name.lower() not in _CREDENTIALS}
            seen.add(next_target)
            target = next_target

    def close(self) -> None:
        """Close the idle connections."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _headers(self, headers: Mapping[str, str] | None, follow: bool) -> dict[str, str]:
        sent = {"Accept-Encoding": "identity", "User-Agent": "docker-torrents"}
        if (identity := current_request_id()) is not None:
            sent["X-Request-Id"] = identity
        for name, value in (headers or {}).items():
            lower = name.lower()
            if lower == "user-agent":
                sent["User-Agent"] = value
            elif lower == "host" and not follow:
                sent["Host"] = value
            elif lower not in _OWN:
                sent[name] = value
        return sent

    def _send(
        self,
        method: str,
        target: Target,
        headers: dict[str, str],
        body: bytes | None,
        until: float,
        seconds: float,
        read_timeout: float,
    ) -> HttpStream:
        """Return the answer with its head read. Raises RemoteError."""
        begun = time.monotonic()
        # Without `prepare`, which costs more than the rest of a small request.
        request = requests.PreparedRequest()
        request.method = method
        request.url = target.url
        request.headers = CaseInsensitiveDict(headers)
        request.body = body
        if body is not None:
            request.headers["Content-Length"] = str(len(body))
        retry = method in _SAFE
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise TimedOut(str(target), seconds)
            timeout = (min(self._connect_timeout, left), min(read_timeout, left))
            try:
                response = self._session.get_adapter(request.url).send(
                    request, stream=True, timeout=timeout, verify=self._ca_bundle, proxies=self._proxies
                )
            except FAILURES as error:
                # A server may close an idle connection at the moment in which it is used: a request that
                # has no effect is repeated once (RFC 9110, 9.2.2).
                if retry and is_hang_up(error):
                    retry = False
                    continue
                failure = as_remote_error(error, target, self._connect_timeout, min(read_timeout, seconds))
                log.debug("no answer method=%s ms=%.0f reason=%s", method, _ms_since(begun), failure)
                raise failure from error
            log.debug(
                "answer method=%s status=%d ms=%.0f url=%s",
                *(method, response.status_code, _ms_since(begun), target),
            )
            if response.status_code < 200:
                response.close()
                raise BadAnswer(
                    str(target), f"interim status {response.status_code} without a request for it"
                )
            return HttpStream(response, target, read_timeout, until, seconds)


def _location(stream: HttpStream) -> Target:
    location = stream.headers.get("Location")
    if not location:
        raise BadAnswer(str(stream.target), f"a redirect ({stream.status}) without a Location")
    return stream.target.join(location)


def _is_tls_port(answer: HttpAnswer) -> bool:
    return answer.target.scheme == "http" and any(text in answer.body for text in _TLS_PORT_ANSWERS)


def _ms_since(begun: float) -> float:
    return 1000 * (time.monotonic() - begun)
