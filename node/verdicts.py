"""Authorization of pulls: the registry's verdict on each caller, cached for a minute if positive."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from cachetools import TTLCache

from core.access.registry import leads_to_storage
from core.digest import Digest
from core.errors import AccessDenied, BadAnswer, Unavailable
from core.names import matches
from core.registry.answers import is_html, retry_after
from node.metainfo import parse_metainfo
from node.upstream import Upstream

REMEMBER_SECONDS = 60.0
_MAX_REMEMBERED = 32 * 1024 * 1024
"""Bytes of verdicts with their torrents."""
_VERDICT_BYTES = 1024
_Caller = tuple[str, Digest, bytes]
"""The scope, the layer, and a hash of the Authorization."""
_REFUSALS = {
    401: ("UNAUTHORIZED", "authentication required"),
    403: ("DENIED", "requested access to the resource is denied"),
    404: ("BLOB_UNKNOWN", "blob unknown to registry"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """This caller may pull the layer. `size` is in bytes; `torrent` is its .torrent, if it has one."""

    size: int
    torrent: bytes | None = field(default=None, repr=False)


class Verdicts:
    """Authorizes callers to pull layers. Thread-safe.

    A caller's simultaneous requests for a layer share one verdict, or one failure: otherwise each would wait
    for a silent registry after the one before it.

    Layers of the scopes `torrents_off` (names or globs) have no torrent here. `clock` never goes back.
    """

    def __init__(
        self,
        upstream: Upstream,
        torrents_off: list[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._upstream = upstream
        self._torrents_off = torrents_off or []
        self._remembered: TTLCache[_Caller, Verdict] = TTLCache(
            _MAX_REMEMBERED, REMEMBER_SECONDS, clock, _bytes_of
        )
        self._pending: dict[_Caller, Future[Verdict]] = {}
        self._lock = threading.Lock()
        self._key = secrets.token_bytes(32)

    def torrent_allowed(self, scope: str) -> bool:
        """Return whether layers of `scope` may come from peers."""
        return not any(matches(scope, pattern) for pattern in self._torrents_off)

    def authorize(self, scope: str, digest: Digest, authorization: str | None) -> Verdict:
        """Return the registry's positive verdict. Raises AccessDenied with its 401, 403 or 404, and
        RemoteError without a verdict.
        """
        caller = self._caller(scope, digest, authorization)
        with self._lock:
            if (known := self._remembered.get(caller)) is not None:
                return known
            shared = self._pending.get(caller)
            if shared is None:
                own = self._pending[caller] = Future()
        if shared is not None:
            return shared.result()
        try:
            own.set_result(self._request_verdict(scope, digest, authorization))
        except BaseException as error:  # noqa: BLE001 - raised again below
            own.set_exception(error)
        with self._lock:
            del self._pending[caller]
            if own.exception() is None:
                self._remembered[caller] = own.result()
        return own.result()

    def forget(self, scope: str, digest: Digest, authorization: str | None) -> None:
        """Drop the cached verdict: the registry has refused what it allowed before."""
        with self._lock:
            self._remembered.pop(self._caller(scope, digest, authorization), None)

    def _caller(self, scope: str, digest: Digest, authorization: str | None) -> _Caller:
        credentials = b"" if authorization is None else authorization.encode("latin-1", "replace")
        return scope, digest, hashlib.blake2b(credentials, key=self._key, digest_size=32).digest()

    def _request_verdict(self, scope: str, digest: Digest, authorization: str | None) -> Verdict:
        if self.torrent_allowed(scope):
            # The service returns a torrent only to callers who may pull the layer from the registry.
            torrent = self._upstream.torrent(scope, digest, authorization)
            if torrent is not None and (size := _layer_size(torrent, digest)) is not None:
                return Verdict(size, torrent)
        return Verdict(self._registry_size(scope, digest, authorization))

    def _registry_size(self, scope: str, digest: Digest, authorization: str | None) -> int:
        """Return the blob's size, if the registry lets this caller pull it."""
        answer = self._upstream.head_blob(scope, digest, authorization)
        where = str(answer.target)
        if answer.status in _REFUSALS:
            if answer.status == 401 and authorization is not None and self._upstream.withholds_credentials():
                why = "credentials are not sent in cleartext: set docker_registry.proto to https"
                raise Unavailable(where, why)
            challenge = [("WWW-Authenticate", value) for value in answer.headers.all("WWW-Authenticate")]
            raise AccessDenied(answer.status, tuple(challenge), *_REFUSALS[answer.status])
        if leads_to_storage(answer, digest):
            # The registry has allowed the pull; its storage knows the size.
            answer = self._upstream.head(answer.target.join(answer.headers.get("Location") or ""))
        if answer.status != 200 or is_html(answer.headers):
            raise Unavailable(where, f"no verdict, status {answer.status}", retry_after(answer.headers))
        size = answer.headers.number("Content-Length")
        if size is None:
            raise BadAnswer(where, "no Content-Length")
        return size


def _bytes_of(verdict: Verdict) -> int:
    return _VERDICT_BYTES + len(verdict.torrent or b"")


def _layer_size(torrent: bytes, digest: Digest) -> int | None:
    """Return the layer's size in its .torrent, None if that is not usable."""
    try:
        return parse_metainfo(torrent, digest).size
    except ValueError:
        return None
