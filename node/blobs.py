"""`GET|HEAD /v2/<scope>/blobs/<digest>`: the registry's verdict, then the bytes from cache or download."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import bottle

from core.digest import Digest
from core.errors import Refused
from core.http.byte_range import Span, etag_matches, range_holds, requested_span
from core.registry.answers import retry_after
from node.answers import error, unavailable
from node.bodies import LayerBody, PassedBody
from node.downloads import Downloads
from node.origin import Layer
from node.proxy import TRY_ELSEWHERE, unchanged
from node.registry_origin import RegistryOrigin
from node.requests import header
from node.upstream import Upstream
from node.verdicts import Verdict, Verdicts

log = logging.getLogger(__name__)

MAX_BODIES = 96
"""The most layers sent at once. An engine that pauses keeps its turn until it continues or ends."""

FIRST_BYTE_SECONDS = 25.0
"""containerd waits 30 s for the head of an answer (from 2.3 on)."""


class Blobs:
    """Serves layers from downloads and the cache. `time_limit` is in seconds without a byte."""

    def __init__(
        self,
        upstream: Upstream,
        verdicts: Verdicts,
        downloads: Downloads,
        time_limit: float,
        max_bodies: int = MAX_BODIES,
    ) -> None:
        self._upstream = upstream
        self._verdicts = verdicts
        self._downloads = downloads
        self._time_limit = time_limit
        self._bodies = threading.BoundedSemaphore(max_bodies)

    def answer(self, environ: Mapping[str, Any], scope: str, digest: Digest) -> bottle.HTTPResponse:
        """Return the answer to a GET or HEAD. Raises AccessDenied, RemoteError."""
        authorization = header(environ, "Authorization")
        verdict = self._verdicts.judge(scope, digest, authorization)
        if etag_matches(header(environ, "If-None-Match"), _etag(digest)):
            return bottle.HTTPResponse(b"", 304, {"ETag": _etag(digest)})
        if environ["REQUEST_METHOD"] == "HEAD" or not verdict.size:
            return _answer(200, b"", digest, verdict.size)
        range_ = header(environ, "Range")
        if range_ is not None and not range_holds(header(environ, "If-Range"), _etag(digest)):
            range_ = None
        with ExitStack() as held:
            if not self._bodies.acquire(blocking=False):
                return unavailable("too many layers are being sent", 1)
            held.callback(self._bodies.release)
            if range_ is not None and "," in range_:
                return self._pass(scope, digest, authorization, range_, held)
            span = requested_span(range_, verdict.size)
            if span == "unsatisfiable":
                answer = error(416, "RANGE_INVALID", "the layer has no such bytes")
                answer.set_header("Content-Range", f"bytes */{verdict.size}")
                return answer
            whole = Span(0, verdict.size)
            layer = Layer(digest, scope, verdict.size)
            try:
                body = self._body(layer, whole if span == "whole" else span, authorization, verdict, held)
            except Refused:
                # The token has expired since: the registry's answer to it is what the engine needs.
                self._verdicts.forget(scope, digest, authorization)
                self._verdicts.judge(scope, digest, authorization)
                raise
        if span == "whole":
            return _answer(200, body, digest, verdict.size)
        answer = _answer(206, body, digest, span.length)
        answer.set_header("Content-Range", span.content_range(verdict.size))
        return answer

    def _body(
        self, layer: Layer, span: Span, authorization: str | None, verdict: Verdict, held: ExitStack
    ) -> LayerBody:
        """Return the bytes of `span`; the body then owns `held`."""
        read = self._open(layer, authorization, verdict, held)
        body = LayerBody(layer.digest, span, read)
        body.release_when_closed(held.pop_all())
        return body

    def _open(
        self, layer: Layer, authorization: str | None, verdict: Verdict, held: ExitStack
    ) -> Callable[[int, int], bytes]:
        origin = RegistryOrigin(
            self._upstream,
            layer,
            authorization,
            verdict.torrent,
            ask_again=self._verdicts.torrent_allowed(layer.scope),
        )
        reader = held.enter_context(self._downloads.open(layer, origin))
        seconds = min(FIRST_BYTE_SECONDS, self._time_limit)

        def read(offset: int, limit: int) -> bytes:
            nonlocal seconds
            data = reader.read(offset, limit, seconds)
            seconds = self._time_limit
            return data

        return read

    def _pass(
        self, scope: str, digest: Digest, authorization: str | None, range_: str, held: ExitStack
    ) -> bottle.HTTPResponse:
        """Return the registry's own answer, for several ranges, as used to pull zstd:chunked images."""
        stream = self._upstream.open_blob(scope, digest, authorization, range_)
        held.callback(stream.close)
        if stream.status in TRY_ELSEWHERE:
            return unavailable(f"the registry answers {stream.status}", retry_after(stream.headers))
        body = PassedBody(stream)
        body.release_when_closed(held.pop_all())
        return unchanged(stream.status, stream.headers, body, head=False)


def _answer(status: int, body: LayerBody | bytes, digest: Digest, length: int) -> bottle.HTTPResponse:
    return bottle.HTTPResponse(
        body,
        status,
        {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            "Accept-Ranges": "bytes",
            "Docker-Content-Digest": str(digest),
            "ETag": _etag(digest),
        },
    )


def _etag(digest: Digest) -> str:
    return f'"{digest}"'
