"""`GET /v0/layers/<capability>/<hex>`, and HEAD: a layer's bytes, for torrent clients (web seeds, BEP 19)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache

import bottle

from core.blobs.source import BlobSource
from core.digest import Digest
from core.errors import (
    NO_ANSWER,
    CapabilityInvalid,
    InvalidName,
    LayerError,
    NotFound,
    RemoteError,
    TimedOut,
)
from core.http.byte_range import Span, etag_matches, range_holds, requested_span
from core.layer import Layer
from core.logs import OutageLog
from core.torrents.capability import verify
from web.errors import error
from web.layer_bodies import LayerBody
from web.limits import Turns
from web.request import path_after, request_headers
from web.threads import DOWNLOADS, DOWNLOADS_WAITING

log = logging.getLogger(__name__)

WAIT_SECONDS = 60.0
"""How long a download waits for its turn."""

_MAX_SIZES = 10_000


class LayerHandler:
    """Serves layers from one source."""

    def __init__(self, source: BlobSource, secret: bytes, clock: Callable[[], float]) -> None:
        self._source = source
        self._secret = secret
        self._clock = clock
        self._turns = Turns(
            "downloads", DOWNLOADS, waiting=DOWNLOADS_WAITING, seconds=WAIT_SECONDS, resource="download"
        )
        self._outage = OutageLog(log, "layer source")
        # A client requests a layer piece by piece, and the size of a blob does not change.
        self._size = lru_cache(maxsize=_MAX_SIZES)(source.size)

    def head(self, rest: str) -> bottle.HTTPResponse:
        """Answer with the headers of the whole layer."""
        layer = self._authorize()
        if isinstance(layer, bottle.HTTPResponse):
            return layer
        with self._turns.turn():
            try:
                return _answer(200, b"", layer, self._source.size(layer))
            except (RemoteError, LayerError) as failed:
                return self._failure(layer, failed)

    def get(self, rest: str) -> bottle.HTTPResponse:
        """Answer with the layer, or the requested range of it."""
        layer = self._authorize()
        if isinstance(layer, bottle.HTTPResponse):
            return layer
        if etag_matches(request_headers().get("If-None-Match"), _etag(layer)):
            return bottle.HTTPResponse(b"", 304, {"ETag": _etag(layer)})
        with ExitStack() as held:
            held.enter_context(self._turns.turn())
            try:
                return self._stream(layer, held)
            except (RemoteError, LayerError) as failed:
                # The cached size may be that of a damaged blob.
                self._size.cache_clear()
                return self._failure(layer, failed)

    def _authorize(self) -> Layer | bottle.HTTPResponse:
        """Return the layer of the path's capability, or a refusal."""
        capability, _, hex_digits = path_after("/v0/layers/").partition("/")
        try:
            digest = Digest(hex_digits)
            granted = verify(self._secret, capability, digest, self._clock())
        except CapabilityInvalid as invalid:
            return _refusal(str(invalid))
        except InvalidName:
            # Its text is not logged: the name may be a capability in the wrong place.
            return _refusal("the path names no layer")
        return Layer(digest, (granted.scope,))

    def _stream(self, layer: Layer, held: ExitStack) -> bottle.HTTPResponse:
        """Return the answer whose body owns the turn `held` until it is closed."""
        size = self._size(layer)
        if size == 0:
            return _answer(200, b"", layer, 0)  # Bottle does not close a body without chunks
        headers = request_headers()
        requested = headers.get("Range") if range_holds(headers.get("If-Range"), _etag(layer)) else None
        span = requested_span(requested, size)
        if span == "unsatisfiable":
            answer = error(416, "RANGE_INVALID", "the layer has no such bytes", detail={"size": size})
            answer.set_header("Content-Range", f"bytes */{size}")
            return answer
        whole = span == "whole"
        span = Span(0, size) if span == "whole" else span
        # Some registries and caches do not support ranges: read the whole layer without one.
        reader = self._source.open(layer, span.start, None if span.length == size else span.length)
        until_closed = ExitStack()
        body = LayerBody(reader, layer, span, until_closed.close)
        until_closed.push(held.pop_all())
        self._outage.succeeded()
        answer = _answer(200 if whole else 206, body, layer, span.length)
        if not whole:
            answer.set_header("Content-Range", span.content_range(size))
        return answer

    def _failure(self, layer: Layer, failed: RemoteError | LayerError) -> bottle.HTTPResponse:
        if isinstance(failed, NO_ANSWER):
            self._outage.failed(f"layer {layer.digest} of {layer.scopes[0]} not read: {failed}")
        else:
            log.warning("layer not read digest=%s scope=%s reason=%s", layer.digest, layer.scopes[0], failed)
        if isinstance(failed, NotFound):
            return error(404, "BLOB_UNKNOWN", "the layer no longer exists")
        if isinstance(failed, TimedOut):
            return error(504, "UNAVAILABLE", "the layer could not be read in time")
        return error(502, "UNAVAILABLE", "the layer cannot be read now")


def install(app: bottle.Bottle, source: BlobSource, secret: bytes, clock: Callable[[], float]) -> None:
    """Add the routes of this module."""
    layers = LayerHandler(source, secret, clock)
    app.route("/v0/layers/<rest:re:.+>", "GET", layers.get, name="layers")
    app.route("/v0/layers/<rest:re:.+>", "HEAD", layers.head, name="layers_head")


def _answer(status: int, body: LayerBody | bytes, layer: Layer, length: int) -> bottle.HTTPResponse:
    return bottle.HTTPResponse(
        body,
        status,
        {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            "Accept-Ranges": "bytes",
            "ETag": _etag(layer),
            "Cache-Control": "private",
        },
    )


def _refusal(reason: str) -> bottle.HTTPResponse:
    # The reason is for the log only: a caller must not learn by trying.
    log.info("layer refused reason=%s", reason)
    return error(403, "DENIED", "the capability in this URL is invalid or has expired")


def _etag(layer: Layer) -> str:
    return f'"{layer.digest}"'
