"""The registry and its torrents, requested with the caller's own credentials."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TypeVar
from urllib.parse import quote

from core.config.config import DockerRegistry
from core.digest import Digest
from core.errors import NO_ANSWER, BadAnswer, RemoteError
from core.http.client import HttpAnswer, HttpClient
from core.http.stream import HttpStream
from core.http.url import Target, parse_url
from core.logs import OutageLog
from core.manifests.media_types import ALL_MANIFESTS
from core.networks import is_loopback
from core.registry.urls import RegistryUrls
from node.brew_requests import BrewRequest, BrewRequests

log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer", HttpAnswer, HttpStream)

_OUTAGE = frozenset({408, 429, 502, 503, 504})
"""Statuses of a server that is down or overloaded. Others may concern a single blob: 500 a damaged file."""

TORRENT_SECONDS = 2.0
"""How long to wait for a torrent from the service before the layer is read from the registry."""

BACKOFF_SECONDS = 5.0
"""How long no torrents are requested after the service could not be reached."""

_TORRENT_LIMIT = 1024 * 1024
_ANSWER_LIMIT = 64 * 1024 * 1024  # registry 2.8 returns all tags in one answer


class Upstream:
    """Sends requests to the registry, and to the service for torrents, on behalf of callers.

    Each call takes the caller's Authorization. It is sent only by https, or within this machine. Every method
    raises RemoteError. `torrents_url` None means the registry's own URL. Thread-safe.
    """

    def __init__(
        self,
        settings: DockerRegistry,
        torrents_url: str | None,
        http: HttpClient,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.urls = RegistryUrls(settings)
        self._torrents = (torrents_url or f"{settings.proto}://{settings.host}").rstrip("/")
        self._http = http
        self._clock = clock
        self._backoff_until = float("-inf")
        self._registry = str(parse_url(self.urls.base))
        self._registry_outage = OutageLog(log, "registry")
        self._storage_outage = OutageLog(log, "storage of the registry")
        self._outage = OutageLog(log, "torrents service")
        self.brew_requests = BrewRequests(self._request_brewing)

    def close(self) -> None:
        """End the background threads."""
        self.brew_requests.close()

    def withholds_credentials(self) -> bool:
        """Return whether callers' credentials are withheld, as they would be sent in cleartext."""
        return not _is_confidential(parse_url(self.urls.base))

    @property
    def registry_is_down(self) -> bool:
        """Whether the registry, or the storage that it redirects to, is down: that is logged here."""
        return self._registry_outage.out or self._storage_outage.out

    def fetch(
        self, method: str, url: str, authorization: str | None, headers: Mapping[str, str] | None = None
    ) -> HttpAnswer:
        """Return the registry's answer of any status; redirects are not followed."""
        sent = _with_credentials(url, authorization, headers)
        return self._watched(
            lambda: self._http.fetch(method, url, headers=sent, limit=_ANSWER_LIMIT, follow=False)
        )

    def head_blob(self, scope: str, digest: Digest, authorization: str | None) -> HttpAnswer:
        """Return the registry's answer to HEAD of a blob, of any status."""
        return self.fetch("HEAD", self.urls.blob(scope, digest), authorization)

    def head(self, target: Target) -> HttpAnswer:
        """Return the answer of the registry's storage to HEAD, without credentials."""
        return self._watched(lambda: self._http.fetch("HEAD", target.url))

    def open_blob(
        self,
        scope: str,
        digest: Digest | str,
        authorization: str | None,
        range_: str | None,
        method: str = "GET",
    ) -> HttpStream:
        """Return the answer of the registry, or of its storage, for a blob, of any status.

        `digest` may also be a valid one of another algorithm.
        """
        if isinstance(digest, Digest):
            url = self.urls.blob(scope, digest)
        else:
            url = f"{self.urls.base}{scope}/blobs/{digest}"
        headers = {} if range_ is None else {"Range": range_}
        sent = _with_credentials(url, authorization, headers)
        return self._watched(lambda: self._http.open(method, url, headers=sent))

    def torrent(
        self, scope: str, digest: Digest, authorization: str | None, *, ignore_backoff: bool = False
    ) -> bytes | None:
        """Return the layer's .torrent that the service returns to this caller, None if there is none in time.

        After a failure the service is not called for BACKOFF_SECONDS, unless `ignore_backoff`.
        """
        if not ignore_backoff and self._clock() < self._backoff_until:
            return None
        try:
            answer = self._fetch_torrent(scope, digest, authorization, TORRENT_SECONDS)
            if answer.status >= 500 and answer.status not in _OUTAGE:
                raise BadAnswer(self._torrents, f"status {answer.status}")
        except NO_ANSWER as error:
            self._outage.failed(f"layers come from the registry: {error}")
            self._backoff_until = self._clock() + BACKOFF_SECONDS
            return None
        except RemoteError as error:
            log.warning(
                "torrent not used, the layer comes from the registry digest=%s reason=%s", digest, error
            )
            return None
        if answer.status in _OUTAGE:
            self._outage.failed(f"layers come from the registry: {self._torrents} answers {answer.status}")
        elif answer.status == 404 and b'"errors"' not in answer.body:
            # The service's errors are JSON: this is another server, for example the registry itself.
            self._outage.failed(
                f"layers come from the registry: {self._torrents} serves no torrents: set mirror.torrents_url"
            )
        else:
            self._outage.succeeded()
        if answer.status == 404:
            self.brew_requests.request(scope, digest, authorization)
        return answer.body if answer.status == 200 else None

    def probe_torrent(self, scope: str, digest: Digest) -> HttpAnswer:
        """Return the service's answer about a torrent, of any status, to a caller without credentials."""
        return self._fetch_torrent(scope, digest, None)

    def _watched(self, send: Callable[[], _Answer]) -> _Answer:
        """Make a request to the registry or its storage, and log failures: an outage once."""
        try:
            answer = send()
        except NO_ANSWER as error:
            self._outage_of(error.where).failed(error)
            raise
        if answer.status in _OUTAGE:
            self._outage_of(str(answer.target)).failed(f"{answer.target} answers {answer.status}")
        elif answer.status >= 500:
            log.warning("registry failed for one request url=%s status=%d", answer.target, answer.status)
        else:
            self._outage_of(str(answer.target)).succeeded()
        return answer

    def _outage_of(self, url: str) -> OutageLog:
        return self._registry_outage if url.startswith(self._registry) else self._storage_outage

    def _fetch_torrent(
        self, scope: str, digest: Digest, authorization: str | None, seconds: float | None = None
    ) -> HttpAnswer:
        url = f"{self._torrents}/v0/torrents/{quote(scope)}/{digest}"
        headers = _with_credentials(url, authorization)
        return self._http.fetch(
            "GET", url, headers=headers, limit=_TORRENT_LIMIT, seconds=seconds, follow=False
        )

    def _request_brewing(self, request: BrewRequest) -> None:
        url = f"{self._torrents}/v2/{request.scope}/manifests/{request.manifest}?rbtorrent=true"
        headers = _with_credentials(url, request.authorization, {"Accept": ", ".join(ALL_MANIFESTS)})
        self._http.fetch("GET", url, headers=headers, follow=False)


def _with_credentials(
    url: str, authorization: str | None, headers: Mapping[str, str] | None = None
) -> dict[str, str]:
    sent = dict(headers or {})
    if authorization is not None and _is_confidential(parse_url(url)):
        sent["Authorization"] = authorization
    return sent


def _is_confidential(target: Target) -> bool:
    """Return whether data sent there cannot be read on the network."""
    return target.scheme == "https" or target.host == "localhost" or is_loopback(target.host)
