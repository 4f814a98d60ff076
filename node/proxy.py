"""Manifests, tags and referrers: the registry's own answers, byte for byte."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import bottle

from core.digest import Digest
from core.http.forwarding import end_to_end_headers
from core.http.headers import Headers
from core.names import parse_reference
from core.registry.answers import retry_after
from node.answers import unavailable
from node.requests import Resource, forwarded_headers, header
from node.upstream import Upstream

RETRIED_BY_ENGINES = (408, 429)
"""Statuses after which containerd calls the same host again; from 500 on it calls the next one."""
_QUERY = ("n", "last", "artifactType")


class RegistryProxy:
    """Forwards a request with the caller's Authorization, and returns the answer, even a challenge."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def base(self, environ: Mapping[str, Any]) -> bottle.HTTPResponse:
        """Answer `/v2/`. Raises RemoteError."""
        return self._forward(environ, self._upstream.urls.base)

    def named(self, environ: Mapping[str, Any], resource: Resource) -> bottle.HTTPResponse:
        """Answer a request for a manifest, a list of tags, or referrers. Raises InvalidName, RemoteError."""
        answer = self._forward(environ, self._url(resource, bottle.request.query))
        if resource.kind == "manifests" and answer.status_code == 200 and environ["REQUEST_METHOD"] == "GET":
            media_type = answer.get_header("Content-Type") or ""
            self._upstream.brew_requests.remember_layers(resource.scope, answer.body, media_type)
        return answer

    def _url(self, resource: Resource, query: Mapping[str, str]) -> str:
        urls = self._upstream.urls
        kept = {name: query[name] for name in _QUERY if name in query}
        if resource.kind == "manifests":
            reference = parse_reference(resource.name)
            # docker_torrents, if it is there, must not add ids: engines verify the registry's bytes.
            kept = {} if isinstance(reference, Digest) else {"rbtorrent": "false"}
            url = urls.manifest(resource.scope, reference)
        elif resource.kind == "tags":
            url = urls.tags(resource.scope)
        else:
            url = f"{urls.base}{resource.scope}/referrers/{Digest.parse(resource.name)}"
        return f"{url}{'&' if '?' in url else '?'}{urlencode(kept)}" if kept else url

    def _forward(self, environ: Mapping[str, Any], url: str) -> bottle.HTTPResponse:
        method = environ["REQUEST_METHOD"]
        authorization = header(environ, "Authorization")
        answer = self._upstream.fetch(method, url, authorization, forwarded_headers(environ))
        instead = fallback_answer(self._upstream, answer.status, answer.headers, authorization)
        return instead or forwarded_answer(answer.status, answer.headers, answer.body, head=method == "HEAD")


def fallback_answer(
    upstream: Upstream, status: int, headers: Headers, authorization: str | None
) -> bottle.HTTPResponse | None:
    """Return a 503 in place of the registry's answer if the engine should call the registry itself."""
    if status in RETRIED_BY_ENGINES:
        return unavailable(f"the registry answers {status}", retry_after(headers))
    if status == 401 and authorization and upstream.withholds_credentials():
        return unavailable("credentials are not sent in cleartext: set docker_registry.proto to https")
    return None


def forwarded_answer(status: int, headers: Headers, body: object, *, head: bool) -> bottle.HTTPResponse:
    """Return the registry's answer, without the headers of its connection."""
    response = bottle.HTTPResponse(body, status)
    for name, value in end_to_end_headers(headers):
        response.add_header(name, value)
    # Bottle adds these if they are missing, but not if they are empty.
    for name in ("Content-Type", "Content-Length") if head else ("Content-Type",):
        response.headers.dict.setdefault(name, [])
    return response
