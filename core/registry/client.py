"""The client of a docker/distribution registry: manifests, tags, repositories, blobs.

The API is that of the OCI distribution-spec (spec.md#endpoints) and of docker/distribution
(docs/spec/api.md). Two ways to ask: with credentials of our own, for the jobs; and passing a
caller's request through (`forward`), for the web app.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import TypeVar

from core.config.config import DockerRegistry
from core.digest import Digest
from core.errors import NO_ANSWER, BadAnswer, InvalidName, NotFound, Refused, RemoteError, Unavailable
from core.http.client import HttpAnswer, HttpClient
from core.http.stream import HttpStream
from core.http.url import parse_url, target_of
from core.logs import OutageLog
from core.manifests.manifest import digest_of
from core.manifests.media_types import ALL_MANIFESTS, DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED
from core.names import parse_scope, parse_tag
from core.pace import Pace
from core.registry.answers import from_status, refuse_page
from core.registry.auth import RegistryAuth
from core.registry.blob import BlobStream, range_header
from core.registry.pages import PAGE_LIMIT, read_pages
from core.registry.urls import RegistryUrls, has_name

log = logging.getLogger(__name__)

MANIFEST_LIMIT = 4 * 1024 * 1024
"""Bytes: what docker/distribution itself takes for a manifest at most."""

_ERROR_LIMIT = 64 * 1024
_ACCEPT = {"Accept": ", ".join(ALL_MANIFESTS)}
_SCHEMA1 = (DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED)
_CATALOG_SCOPE = "registry:catalog:*"

Answer = TypeVar("Answer", HttpAnswer, HttpStream)


@dataclass(frozen=True, slots=True)
class FetchedManifest:
    """A manifest's bytes as the registry gave them, and their digest.

    `media_type` is what the registry said of them; core/manifests/manifest.py finds out what they are. Of
    schema 1 manifests the digest is the registry's word: it leaves the signatures out.
    """

    digest: Digest
    media_type: str
    body: bytes = field(repr=False)


class RegistryClient:
    """Asks one registry, from any number of threads.

    Every method raises RemoteError: TimedOut, Unavailable, Refused, NotFound
    or BadAnswer; and InvalidName for an invalid scope or tag, before anything is sent. Without
    user or password it asks anonymously. `http` is shared and stays the caller's to close.
    """

    def __init__(
        self,
        settings: DockerRegistry,
        http: HttpClient,
        user: str | None = None,
        password: str | None = None,
    ) -> None:
        self.urls = RegistryUrls(settings)
        self._http = http
        self._catalog_timeout = settings.catalog_timeout
        self._auth = RegistryAuth(http, user, password)
        self._pace = Pace(None)
        self._outage = OutageLog(log, "registry")

    def paced(self, pace: Pace) -> RegistryClient:
        """This client, waiting for `pace` before each request to the registry; for one thread."""
        paced = copy(self)
        paced._pace = pace  # noqa: SLF001 - a copy of this object
        return paced

    def fetch_manifest(self, scope: str, reference: str | Digest) -> FetchedManifest:
        """The manifest that a tag or a digest names; by digest, its bytes are checked against it."""
        what = _manifest_name(scope, reference)
        answer = self._ask("GET", self.urls.manifest(scope, reference), _pull(scope), what, _ACCEPT)
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
        """The digest that a tag leads to now, without its manifest where the registry is able to."""
        what = _manifest_name(scope, tag)
        try:
            answer = self._ask("HEAD", self.urls.manifest(scope, tag), _pull(scope), what, _ACCEPT)
        except Refused as error:
            if error.status != 405:
                raise
        else:
            digest = _digest_header(answer)
            if digest is not None:
                return digest
        return self.fetch_manifest(scope, tag).digest

    def list_tags(self, scope: str) -> Iterator[str]:
        """The tags of a repository, page by page, in the registry's order. What is no tag is left out."""

        def fetch(url: str) -> HttpAnswer:
            return self._ask("GET", url, _pull(scope), f"repository {scope}", {}, PAGE_LIMIT)

        return read_pages(self.urls.tags(scope), fetch, "tags", parse_tag)

    def list_repositories(self, *, complete: bool = False) -> Iterator[str]:
        """The names of all repositories, page by page. Many registries refuse this (Refused).

        What is no name is left out; where the list has to be `complete`, it raises BadAnswer.
        """

        def fetch(url: str) -> HttpAnswer:
            try:
                limits = PAGE_LIMIT, self._catalog_timeout
                return self._ask("GET", url, _CATALOG_SCOPE, "catalog of repositories", {}, *limits)
            except NotFound:
                why = "it does not list its repositories, they have to be named"
                raise Refused(url.partition("?")[0], 404, why) from None

        return read_pages(self.urls.catalog, fetch, "repositories", parse_scope, complete=complete)

    def open_blob(self, scope: str, digest: Digest, offset: int = 0, length: int | None = None) -> BlobStream:
        """A blob's bytes from `offset` on, `length` of them or all; the caller closes the stream.

        A redirect to the registry's storage is followed without credentials, each time anew: its URL
        expires. Raises RangeIgnored if only the whole blob is sent.
        """
        headers = range_header(offset, length)
        what = f"blob {digest} in {scope}"
        stream = self._open(self.urls.blob(scope, digest), _pull(scope), what, headers)
        try:
            return BlobStream(stream, offset, length)
        except BaseException:
            stream.close()
            raise

    def blob_size(self, scope: str, digest: Digest) -> int:
        """A blob's size in bytes."""
        what = f"blob {digest} in {scope}"
        url = self.urls.blob(scope, digest)
        try:
            answer = self._ask("HEAD", url, _pull(scope), what, {})
            size = answer.headers.number("Content-Length")
        except Refused as error:
            if error.status != 405:
                raise
            size = None
        if size is None:
            with self.open_blob(scope, digest) as stream:
                size = stream.size
        if size is None:
            raise BadAnswer(url, "it does not say how long the blob is")
        return size

    def ping(self) -> str:
        """One line for the operator on a registry that answers, and takes our credentials."""
        answer = self._ask("GET", self.urls.base, "", "API version 2", {})
        version = answer.headers.get("Docker-Distribution-Api-Version") or "it does not say which API"
        return f"{answer.target} answers ({version[:80]})"

    def forward(
        self, method: str, url: str, headers: Mapping[str, str], *, seconds: float | None = None
    ) -> HttpAnswer:
        """The registry's own answer, of any status, to a caller's GET or HEAD of `url`, one of `urls`.

        The caller's `headers` go along, ours do not: no credentials of ours, and redirects are the caller's
        to follow. A `Host` among them goes along to a registry that has no host name of its own
        (core/registry/urls.py). The answer has to be here within `seconds` (by default both time-outs
        together). A registry that does not answer is logged.
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

    def _ask(
        self,
        method: str,
        url: str,
        token_scope: str,
        what: str,
        headers: Mapping[str, str],
        limit: int = MANIFEST_LIMIT,
        seconds: float | None = None,
    ) -> HttpAnswer:
        """An answer of status 200, which may be trusted to be no web page. Raises RemoteError."""

        def send(sent: Mapping[str, str]) -> HttpAnswer:
            return self._http.fetch(method, url, headers=sent, limit=limit, seconds=seconds)

        answer = self._authorized(url, token_scope, headers, send)
        if answer.status != 200:
            raise _refusal(answer, answer.body, url, what)
        refuse_page(answer.headers, answer.target)
        encoding = answer.headers.get("Content-Encoding")
        if encoding and encoding.lower() != "identity":
            raise BadAnswer(str(answer.target), "its answer is compressed, which was not asked for")
        return answer

    def _open(self, url: str, token_scope: str, what: str, headers: Mapping[str, str]) -> HttpStream:
        """An answer of status 200, or of 206 to a request for a range. Raises RemoteError."""

        def send(sent: Mapping[str, str]) -> HttpStream:
            return self._http.open("GET", url, headers=sent)

        stream = self._authorized(url, token_scope, headers, send)
        try:
            if stream.status != 200 and (stream.status != 206 or "Range" not in headers):
                raise _refusal(stream, _beginning(stream), url, what)
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
        """What `send` gives, with the credentials that the registry wants; a 401 is answered once."""
        registry = target_of(url, "docker_registry.host")
        used = self._auth.header(registry, token_scope)
        self._pace.wait()
        answer = send(_with(headers, used))
        # Only the registry's own challenge is answered, not one of a host that it redirects to.
        if answer.status != 401 or answer.target.origin != registry.origin:
            return answer
        if isinstance(answer, HttpStream):
            answer.discard()
        challenges = answer.headers.all("WWW-Authenticate")
        used = self._auth.answer(challenges, registry, token_scope, used)
        self._pace.wait()
        answer = send(_with(headers, used))
        if answer.status == 401 and answer.target.origin == registry.origin:
            if isinstance(answer, HttpStream):
                answer.discard()
            raise self._auth.refused(registry, used)
        return answer


def _with(headers: Mapping[str, str], authorization: str | None) -> Mapping[str, str]:
    return headers if authorization is None else {**headers, "Authorization": authorization}


def _pull(scope: str) -> str:
    """What a token has to be good for (docker/distribution, docs/spec/auth/scope.md)."""
    return f"repository:{scope}:pull"


def _manifest_name(scope: str, reference: str | Digest) -> str:
    return f"manifest {scope}{'@' if isinstance(reference, Digest) else ':'}{reference}"


def _digest_header(answer: HttpAnswer) -> Digest | None:
    try:
        return Digest.parse(answer.headers.get("Docker-Content-Digest"))
    except InvalidName:
        return None


def _refusal(answer: HttpAnswer | HttpStream, body: bytes, url: str, what: str) -> Exception:
    where = str(answer.target)
    if answer.status in (401, 403) and answer.target.origin != parse_url(url).origin:
        # The URL that it was sent to has run out, or the clocks differ: a new one may do.
        return Unavailable(where, f"the registry's storage answers {answer.status}")
    return from_status(answer.status, answer.headers, body, where, what)


def _beginning(stream: HttpStream) -> bytes:
    """What an error's body says, as far as it can be read."""
    try:
        return stream.read(_ERROR_LIMIT)
    except RemoteError:
        return b""
