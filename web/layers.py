"""`GET /v0/layers/<capability>/<hex>`, and HEAD: a layer's bytes, for torrent clients (web seeds, BEP 19)."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache

import bottle

from core.blobs.source import BlobReader, BlobSource
from core.digest import Digest
from core.errors import (
    NO_ANSWER,
    CapabilityInvalid,
    ConnectionCut,
    InvalidName,
    LayerError,
    NotFound,
    RemoteError,
    TimedOut,
)
from core.http.byte_range import Span, applicable_range, etag_matches, requested_span, unsatisfied_range
from core.layer import Layer
from core.logs import OutageLog
from core.torrents.capability import verify
from web.errors import error
from web.limits import DOWNLOADS, DOWNLOADS_WAITING, ConcurrencyLimit
from web.request import path_after, request_headers

log = logging.getLogger(__name__)

WAIT_SECONDS = 60.0
"""How long a download waits for its slot."""

CHUNK_BYTES = 256 * 1024
_MAX_SIZES = 10_000


class LayerHandler:
    """Serves layers from one source."""

    def __init__(self, source: BlobSource, secret: bytes, clock: Callable[[], float]) -> None:
        self._source = source
        self._secret = secret
        self._clock = clock
        self._concurrency = ConcurrencyLimit(
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
        with self._concurrency.slot():
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
            held.enter_context(self._concurrency.slot())
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
        """Return the answer whose body owns the slot `held` until it is closed."""
        size = self._size(layer)
        if size == 0:
            return _answer(200, b"", layer, 0)  # Bottle does not close a body without chunks
        headers = request_headers()
        requested = applicable_range(headers.get("Range"), headers.get("If-Range"), _etag(layer))
        span = requested_span(requested, size)
        if span == "unsatisfiable":
            message = "the layer has no such bytes"
            return error(416, "RANGE_INVALID", message, [unsatisfied_range(size)], detail={"size": size})
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


class LayerBody:
    """`span` of a layer in chunks, for the server to send (PEP 3333).

    The first chunk is read at once, so that a failure is answered with an error. `closed` is called once,
    when the server has finished with the body. Raises RemoteError or LayerError; then the reader is closed,
    and `closed` not called.
    """

    def __init__(self, reader: BlobReader, layer: Layer, span: Span, closed: Callable[[], None]) -> None:
        self._layer = layer
        self._span = span
        self._closed = closed
        self._sent = 0
        # The server iterates outside the request's context, which has the id for log lines.
        self._run = contextvars.copy_context().run
        self._reader: BlobReader | None = reader
        try:
            self._first = self._read(reader)
        except BaseException:
            reader.close()
            raise

    def __iter__(self) -> Iterator[bytes]:
        chunk = self._first
        self._first = b""
        while True:
            self._sent += len(chunk)
            yield chunk
            if self._sent == self._span.length or self._reader is None:
                return
            try:
                chunk = self._run(self._read, self._reader)
            except (RemoteError, LayerError) as failed:
                # The headers are sent. A body shorter than its Content-Length makes the server cut the
                # connection.
                self._run(
                    log.warning,
                    "layer cut off digest=%s sent=%d reason=%s",
                    *(self._layer.digest, self._sent, failed),
                )
                return

    def close(self) -> None:
        """Close the body; the server calls this when it is sent, or the client has left."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
            self._closed()

    def _read(self, reader: BlobReader) -> bytes:
        """Return the next bytes, at least one: a blob that ends before its size was cut."""
        buffer = bytearray(min(CHUNK_BYTES, self._span.length - self._sent))
        filled = reader.readinto(memoryview(buffer))
        if not filled:
            raise ConnectionCut("the source", self._span.start + self._sent, "it ended before its size")
        return bytes(memoryview(buffer)[:filled])


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
