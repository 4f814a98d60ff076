"""The client of a docker/distribution registry: manifests, tags, repositories, blobs.

The API is that of the OCI distribution-spec (spec.md#endpoints) and of docker/distribution
(docs/spec/api.md). Requests are sent with the service's own credentials, for the jobs, or
pass a caller's request through (`forward`), for the web app.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field
from typing import TypeVar

from core.config.config import DockerRegistry
from core.digest import Digest
from core.errors import NO_ANSWER, BadAnswer, NotFound, RangeIgnored, Refused
from core.http.client import HttpAnswer, HttpClient
from core.http.ranged import BlobStream, range_header
from core.http.stream import HttpStream
from core.http.url import target_of
from core.logs import OutageLog
from core.manifests.manifest import digest_of
from core.manifests.media_types import ALL_MANIFESTS, DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED
from core.names import parse_scope, parse_tag
from core.pace import Pace
from core.registry.answers import refusal, refuse_page, retry_after
from core.registry.auth import BREWER_LOGIN, RegistryAuth
from core.registry.pages import PAGE_LIMIT, read_pages
from core.registry.urls import RegistryUrls, has_name

log = logging.getLogger(__name__)

MANIFEST_LIMIT = 4 * 1024 * 1024
"""In bytes: docker/distribution's own limit for manifests."""

_ACCEPT = {"Accept": ", ".join(ALL_MANIFESTS)}
# A server that does not support HEAD (RFC 9110, 15.5.6 and 15.6.2).
_NO_HEAD = (405, 501)
_SCHEMA1 = (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED)
_CATALOG_SCOPE = "registry:catalog:*"
_MAX_PAUSE_SECONDS = 60.0
_MAX_PAUSES = 6

Answer = TypeVar("Answer", HttpAnswer, HttpStream)


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest's bytes from the registry, and their digest.

    `media_type` is the Content-Type; core/manifests/manifest.py determines the kind. The digest of a schema 1
    manifest is the one in the registry's header, as it excludes the signatures.
    """

    digest: Digest
    media_type: str
    body: bytes = field(repr=False)


class RegistryClient:
    """The client of one registry. Thread-safe.

    Every method raises RemoteError: TimedOut, Unavailable, Refused, NotFound or BadAnswer; and InvalidName
    for an invalid scope or tag, before anything is sent. Without user or password requests are anonymous. The
    caller closes `http`, which may be shared.
    """

    def __init__(
        self,
        settings: DockerRegistry,
        http: HttpClient,
        user: str | None = None,
        password: str | None = None,
        *,
        login_remedy: str = BREWER_LOGIN,
    ) -> None:
        self.urls = RegistryUrls(settings)
        self._http = http
        self._catalog_timeout = settings.catalog_timeout
        self._auth = RegistryAuth(http, user, password, remedy=login_remedy)
        self._pace: Pace | None = None
        self._outage = OutageLog(log, "registry")

    def paced(self, pace: Pace) -> RegistryClient:
        """Return a copy that waits for `pace` before each request to the registry; for one thread.

        It repeats a request that the registry refuses for their rate (429), after the seconds in Retry-After
        (if it demands more than a minute, not at all), or else after 1, 2, 4 … seconds.
        """
        paced = copy(self)
        paced._pace = pace  # noqa: SLF001 - a copy of this object
        return paced

    def fetch_manifest(self, scope: str, reference: str | Digest) -> FetchedManifest:
        """Fetch a manifest by tag or digest; by digest its bytes are verified."""
        what = _manifest_name(scope, reference)
        answer = self._request("GET", self.urls.manifest(scope, reference), _pull(scope), what, _ACCEPT)
        where = str(answer.target)
        media_type = (answer.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
        digest = digest_of(answer.body)
        expected = reference if isinstance(reference, Digest) else _digest_header(answer)
        if expected is not None and expected != digest:
            if media_type not in _SCHEMA1:
                raise BadAnswer(where, f"the manifest's bytes have digest {digest}, not {expected}")
            digest = expected
        return FetchedManifest(digest, media_type, answer.body)

    def head_manifest(self, scope: str, tag: str) -> Digest:
        """Return the current digest of a tag, by HEAD if the registry supports it."""
        answer = self._head(self.urls.manifest(scope, tag), scope, _manifest_name(scope, tag), _ACCEPT)
        digest = None if answer is None else _digest_header(answer)
        return self.fetch_manifest(scope, tag).digest if digest is None else digest

    def list_tags(self, scope: str) -> Iterator[str]:
        """Yield the tags of a repository, page by page, in the registry's order. Invalid ones are omitted."""

        def fetch(url: str) -> HttpAnswer:
            return self._request("GET", url, _pull(scope), f"repository {scope}", {}, PAGE_LIMIT)

        return read_pages(self.urls.tags(scope), fetch, "tags", parse_tag)

    def list_repositories(self, *, complete: bool = False) -> Iterator[str]:
        """Yield the names of all repositories, page by page. Many registries refuse this (Refused).

        Invalid names are left out; if the list has to be `complete`, they raise BadAnswer.
        """

        def fetch(url: str) -> HttpAnswer:
            try:
                limits = PAGE_LIMIT, self._catalog_timeout
                return self._request("GET", url, _CATALOG_SCOPE, "catalog of repositories", {}, *limits)
            except NotFound:
                why = "it does not list its repositories: name them"
                raise Refused(url.partition("?")[0], 404, why) from None

        return read_pages(self.urls.catalog, fetch, "repositories", parse_scope, complete=complete)

    def open_blob(self, scope: str, digest: Digest, offset: int = 0, length: int | None = None) -> BlobStream:
        """Open a blob at `offset`, for `length` bytes or all; the caller closes the stream.

        A redirect to the registry's storage is followed without credentials, and never cached, as its URL
        expires. Raises RangeIgnored if only the whole blob is sent.
        """
        headers = range_header(offset, length)
        what = f"blob {digest} in {scope}"
        stream = self._open(self.urls.blob(scope, digest), _pull(scope), what, headers)
        return BlobStream(stream, offset, length)

    def blob_size(self, scope: str, digest: Digest) -> int | None:
        """Return a blob's size in bytes, None if the registry does not state it.

        Some servers answer HEAD with a length of 0, that of the body which they send.
        """
        answer = self._head(self.urls.blob(scope, digest), scope, f"blob {digest} in {scope}", {})
        size = None if answer is None else answer.headers.number("Content-Length")
        if not size:
            with self.open_blob(scope, digest) as stream:
                size = stream.size
        if size is None:
            with suppress(RangeIgnored), self.open_blob(scope, digest, 0, 1) as stream:
                size = stream.size
        return size

    def ping(self) -> str:
        """Return a line for the operator if the registry answers and accepts our credentials."""
        answer = self._request("GET", self.urls.base, "", "API version 2", {})
        version = answer.headers.get("Docker-Distribution-Api-Version") or "unknown API version"
        return f"{answer.target} answers ({version[:80]})"

    def forward(
        self, method: str, url: str, headers: Mapping[str, str], *, seconds: float | None = None
    ) -> HttpAnswer:
        """Return the registry's own answer, of any status, to a caller's GET or HEAD of `url`, one of `urls`.

        The caller's `headers` are sent, without credentials of ours; redirects are not followed. A `Host`
        among them is sent to a registry without its own host name (core/registry/urls.py). `seconds` is the
        deadline of HttpClient.fetch. A registry that does not answer is logged.
        """
        if "Host" in headers and has_name(target_of(url, "docker_registry.host").host):
            headers = {name: value for name, value in headers.items() if name != "Host"}
        try:
            answer = self._http.fetch(
                method, url, headers=headers, limit=MANIFEST_LIMIT, seconds=seconds, follow=False
            )
        except NO_ANSWER as error:
            self._outage.failed(error)
            raise
        self._outage.succeeded()
        return answer

    def _head(self, url: str, scope: str, what: str, headers: Mapping[str, str]) -> HttpAnswer | None:
        """Return the answer to HEAD, None from a server that does not support it. Raises RemoteError."""
        try:
            return self._request("HEAD", url, _pull(scope), what, headers)
        except Refused as error:
            if error.status in _NO_HEAD:
                return None
            raise

    def _request(
        self,
        method: str,
        url: str,
        token_scope: str,
        what: str,
        headers: Mapping[str, str],
        limit: int = MANIFEST_LIMIT,
        seconds: float | None = None,
    ) -> HttpAnswer:
        """Return an answer of status 200 that is not a web page. Raises RemoteError."""

        def send(sent: Mapping[str, str]) -> HttpAnswer:
            return self._http.fetch(method, url, headers=sent, limit=limit, seconds=seconds)

        answer = self._authorized(url, token_scope, headers, send)
        if answer.status != 200:
            raise refusal(answer, url, what)
        refuse_page(answer.headers, answer.target)
        encoding = answer.headers.get("Content-Encoding")
        if encoding and encoding.lower() != "identity":
            raise BadAnswer(str(answer.target), "its answer is compressed, which was not requested")
        return answer

    def _open(self, url: str, token_scope: str, what: str, headers: Mapping[str, str]) -> HttpStream:
        """Return an answer of status 200, or of 206 to a request for a range. Raises RemoteError."""
        stream = self._authorized(
            url, token_scope, headers, lambda sent: self._http.open("GET", url, headers=sent)
        )
        try:
            if stream.status != 200 and (stream.status != 206 or "Range" not in headers):
                raise refusal(stream, url, what)
            refuse_page(stream.headers, stream.target)
        except BaseException:
            stream.close()
            raise
        return stream

    def _authorized(
        self,
        url: str,
        token_scope: str,
        headers: Mapping[str, str],
        send: Callable[[Mapping[str, str]], Answer],
    ) -> Answer:
        """Call `send` with the credentials that the registry requires; a 401 is answered once."""
        registry = target_of(url, "docker_registry.host")
        used, answered = self._auth.header(registry, token_scope), False
        while True:
            answer = self._paced_send(send, headers if used is None else {**headers, "Authorization": used})
            # Only the registry's own challenge is answered, not that of a redirect target.
            if answer.status != 401 or answer.target.origin != registry.origin:
                return answer
            if isinstance(answer, HttpStream):
                answer.discard()
            if answered:
                raise self._auth.refused(registry, used)
            challenges = answer.headers.all("WWW-Authenticate")
            used, answered = self._auth.answer(challenges, registry, token_scope, used), True

    def _paced_send(self, send: Callable[[Mapping[str, str]], Answer], headers: Mapping[str, str]) -> Answer:
        """Call `send`; with a pace, wait for it, and send again after a 429 (see `paced`)."""
        if self._pace is None:
            return send(headers)
        pauses = 0
        while True:
            self._pace.wait()
            answer = send(headers)
            demanded = retry_after(answer.headers)
            seconds = 2.0**pauses if demanded is None else demanded
            if answer.status != 429 or pauses == _MAX_PAUSES or seconds > _MAX_PAUSE_SECONDS:
                return answer
            if isinstance(answer, HttpStream):
                answer.discard()
            self._pace.pause(seconds)
            pauses += 1


def _pull(scope: str) -> str:
    """Return the scope of a token for pulling (docker/distribution, docs/spec/auth/scope.md)."""
    return f"repository:{scope}:pull"


def _manifest_name(scope: str, reference: str | Digest) -> str:
    return f"manifest {scope}{'@' if isinstance(reference, Digest) else ':'}{reference}"


def _digest_header(answer: HttpAnswer) -> Digest | None:
    return Digest.parse_or_none(answer.headers.get("Docker-Content-Digest"))
