"""`GET|HEAD /v2/<scope>/blobs/<digest>`: the registry's verdict, then the bytes from cache or download."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import bottle

from core.digest import Digest
from core.errors import Refused, TimedOut
from core.http.byte_range import Span, applicable_range, etag_matches, requested_span, unsatisfied_range
from node.answers import error, unavailable
from node.bodies import CHUNK_BYTES, ForwardedBody, LayerBody, LazyLayerBody
from node.downloads import Downloads, Reader
from node.origin import PulledLayer
from node.proxy import fallback_answer, forwarded_answer
from node.registry_origin import RegistryOrigin
from node.requests import header
from node.upstream import Upstream
from node.verdicts import Verdict, Verdicts

log = logging.getLogger(__name__)

MAX_BODIES = 96
"""The most layers sent at once. An engine that pauses keeps its slot until it continues or ends."""

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

    def answer(self, environ: Mapping[str, Any], scope: str, digest: Digest | str) -> bottle.HTTPResponse:
        """Return the answer to a GET or HEAD. Raises AccessDenied, RemoteError.

        Layers are cached and shared by their SHA-256: a blob whose digest is text, as it has another
        algorithm, is passed on from the registry.
        """
        authorization = header(environ, "Authorization")
        if isinstance(digest, str):
            with ExitStack() as held:
                return self._acquire_slot(held) or self._forward(
                    environ, scope, digest, authorization, header(environ, "Range"), held
                )
        verdict = self._verdicts.authorize(scope, digest, authorization)
        if etag_matches(header(environ, "If-None-Match"), _etag(digest)):
            return bottle.HTTPResponse(b"", 304, {"ETag": _etag(digest)})
        if environ["REQUEST_METHOD"] == "HEAD" or not verdict.size:
            return _answer(200, b"", digest, verdict.size)
        range_ = applicable_range(header(environ, "Range"), header(environ, "If-Range"), _etag(digest))
        with ExitStack() as held:
            if (refused := self._acquire_slot(held)) is not None:
                return refused
            if range_ is not None and "," in range_:
                return self._forward(environ, scope, digest, authorization, range_, held)
            span = requested_span(range_, verdict.size)
            if span == "unsatisfiable":
                message = "the layer has no such bytes"
                return error(416, "RANGE_INVALID", message, [unsatisfied_range(verdict.size)])
            whole = Span(0, verdict.size)
            layer = PulledLayer(digest, scope, verdict.size)
            try:
                body = self._body(layer, whole if span == "whole" else span, authorization, verdict, held)
            except Refused:
                # The token has expired since: the registry's answer to it is what the engine needs.
                self._verdicts.forget(scope, digest, authorization)
                self._verdicts.authorize(scope, digest, authorization)
                raise
        if span == "whole":
            return _answer(200, body, digest, verdict.size)
        answer = _answer(206, body, digest, span.length)
        answer.set_header("Content-Range", span.content_range(verdict.size))
        return answer

    def _acquire_slot(self, held: ExitStack) -> bottle.HTTPResponse | None:
        """Count a body, until `held` is closed. Return the answer if there are too many."""
        if not self._bodies.acquire(blocking=False):
            return unavailable("too many layers are being sent", 1)
        held.callback(self._bodies.release)
        return None

    def _body(
        self, layer: PulledLayer, span: Span, authorization: str | None, verdict: Verdict, held: ExitStack
    ) -> LayerBody:
        """Return the bytes of `span`; the body then owns `held`."""
        origin = RegistryOrigin(
            self._upstream,
            layer,
            authorization,
            verdict.torrent,
            may_request_torrent=self._verdicts.torrent_allowed(layer.scope),
        )
        reader = held.enter_context(self._downloads.open(layer, origin, span.start + span.length))
        read = partial(self._read, reader)
        if first := self._first_bytes(reader, span):
            body = LayerBody(layer.digest, span, first, read)
        else:
            body = LazyLayerBody(layer.digest, span, read)
        body.release_when_closed(held.pop_all())
        return body

    def _first_bytes(self, reader: Reader, span: Span) -> bytes:
        """Return the first bytes of `span`; b"" if only other bytes arrive. Raises TimedOut if none do."""
        before, limit = reader.downloaded, min(CHUNK_BYTES, span.length)
        try:
            return reader.read(span.start, limit, min(FIRST_BYTE_SECONDS, self._time_limit))
        except TimedOut:
            if reader.downloaded in (None, before):
                raise
            return b""

    def _read(self, reader: Reader, offset: int, limit: int) -> bytes:
        """Read, waiting as long as the download receives anything: engines that read parts of a layer in
        parallel request some that arrive much later than others.
        """
        while True:
            before = reader.downloaded
            try:
                return reader.read(offset, limit, self._time_limit)
            except TimedOut:
                if reader.downloaded in (None, before):
                    raise

    def _forward(
        self,
        environ: Mapping[str, Any],
        scope: str,
        digest: Digest | str,
        authorization: str | None,
        range_: str | None,
        held: ExitStack,
    ) -> bottle.HTTPResponse:
        """Return the registry's own answer: also for several ranges, as used to pull zstd:chunked images."""
        method = environ["REQUEST_METHOD"]
        stream = self._upstream.open_blob(scope, digest, authorization, range_, method)
        held.callback(stream.close)
        if (
            instead := fallback_answer(self._upstream, stream.status, stream.headers, authorization)
        ) is not None:
            return instead
        body = ForwardedBody(stream)
        body.release_when_closed(held.pop_all())
        return forwarded_answer(stream.status, stream.headers, body, head=method == "HEAD")


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
