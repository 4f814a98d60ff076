"""`GET /v0/layers/<capability>/<hex>`, and HEAD: a layer's bytes, for torrent clients (web seeds, BEP 19)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache

import bottle

from core.blobs.directory import DirectoryBlobs, FileReader
from core.blobs.source import BlobSource
from core.digest import Digest
from core.errors import CapabilityInvalid, InvalidName, LayerError, NotFound, RemoteError, TimedOut
from core.http.byte_range import Span, etag_matches, range_holds, requested_span
from core.layer import LayerRef
from core.torrents.capability import verify
from web.answers import error
from web.callers_headers import CallersHeaders
from web.layer_bodies import LayerFile, LayerStream
from web.parts import WebParts
from web.raw_path import raw_rest

log = logging.getLogger(__name__)

MAX_STREAMS = 128
"""Layers that one process reads and sends at a time. Each takes a thread of the server, so the server has
more of them than this: manifests never wait for a slow download, nor for a source that hangs."""

MAX_FILES = 384
"""Layers that one process sends at a time out of files. Open, they take no thread, but two descriptors."""

LONGEST_FILE_SPAN = 16 * 1024 * 1024
"""Bytes: the longest piece there is. The server sends files in its one loop, where a client next door may
take them as fast as they are read: a whole layer would keep all others waiting."""

_RETRY_AFTER = "5"
_SIZES_KEPT = 10_000


def install(app: bottle.Bottle, parts: WebParts) -> None:
    """Add the calls of this module to `app`."""
    seeds = _WebSeeds(parts.source, parts.capability_secret, parts.clock)
    app.route("/v0/layers/<rest:re:.+>", "GET", seeds.get)
    app.route("/v0/layers/<rest:re:.+>", "HEAD", seeds.head)


class _WebSeeds:
    """Layers out of one source, only so many at a time."""

    def __init__(self, source: BlobSource, secret: bytes, clock: Callable[[], float]) -> None:
        self._source = source
        self._secret = secret
        self._clock = clock
        self._from_files = isinstance(source, DirectoryBlobs)
        self._streams = threading.BoundedSemaphore(MAX_STREAMS)
        self._files = threading.BoundedSemaphore(MAX_FILES)
        # A client asks for a layer piece by piece, and what a digest names never changes its size.
        self._size = lru_cache(maxsize=_SIZES_KEPT)(source.size)

    def head(self, rest: str) -> bottle.HTTPResponse:
        """The headers of the whole layer."""
        layer = self._layer()
        if isinstance(layer, bottle.HTTPResponse):
            return layer
        with ExitStack() as place:
            if not _take(place, self._streams):
                return _too_many(layer)
            try:
                size = self._source.size(layer)
            except (RemoteError, LayerError) as failed:
                return _failure(layer, failed)
        return _answer(200, b"", layer, size)

    def get(self, rest: str) -> bottle.HTTPResponse:
        """The layer, or the range of it that is asked for."""
        layer = self._layer()
        if isinstance(layer, bottle.HTTPResponse):
            return layer
        if etag_matches(_header("If-None-Match"), _etag(layer)):
            return bottle.HTTPResponse(b"", 304, {"ETag": _etag(layer)})
        with ExitStack() as place:
            if not _take(place, self._streams):
                return _too_many(layer)
            try:
                return self._streamed(layer, place)
            except (RemoteError, LayerError) as failed:
                # The size may have been that of a damaged blob.
                self._size.cache_clear()
                return _failure(layer, failed)

    def _layer(self) -> LayerRef | bottle.HTTPResponse:
        """The layer that the path opens, or the answer that it opens none."""
        capability, _, hex_digits = raw_rest("/v0/layers/").partition("/")
        try:
            digest = Digest(hex_digits)
            granted = verify(self._secret, capability, digest, self._clock())
        except CapabilityInvalid as invalid:
            return _refusal(str(invalid))
        except InvalidName:
            # Not told as it is: it may be a capability in the wrong place.
            return _refusal("no layer is named")
        return LayerRef(digest, (granted.scope,))

    def _streamed(self, layer: LayerRef, place: ExitStack) -> bottle.HTTPResponse:
        """The answer with the bytes, whose body takes `place` over until it is closed."""
        size = self._size(layer)
        if size == 0:
            return _answer(200, b"", layer, 0)  # Bottle does not close a body without a chunk
        asked = _header("Range")
        if not range_holds(_header("If-Range"), _etag(layer)):
            asked = None
        span = requested_span(asked, size)
        if span == "unsatisfiable":
            answer = error(416, "RANGE_INVALID", "the layer has no such bytes", detail={"size": size})
            answer.set_header("Content-Range", f"bytes */{size}")
            return answer
        body = self._body(layer, Span(0, size) if span == "whole" else span, size, place)
        if body is None:
            return _too_many(layer)
        if span == "whole":
            return _answer(200, body, layer, size)
        answer = _answer(206, body, layer, span.length)
        answer.set_header("Content-Range", span.content_range(size))
        return answer

    def _body(
        self, layer: LayerRef, span: Span, size: int, place: ExitStack
    ) -> LayerFile | LayerStream | None:
        """The bytes of `span`, None if there is no place for one more download. A file has a place of its own
        and leaves `place`, that of a thread, once it is open: opening it may take long, sending it does not.
        """
        as_file = self._from_files and span.length <= LONGEST_FILE_SPAN
        # The whole is not asked for as a range: there are registries, and caches, that know none.
        length = None if span.length == size else span.length
        reader = self._source.open(layer, span.start, length)
        held = ExitStack()
        if as_file and isinstance(reader, FileReader):
            with ExitStack() as file_place:
                if not _take(file_place, self._files):
                    reader.close()
                    return None
                file = LayerFile(reader, span, size, held.close)
                held.push(file_place.pop_all())
            return file
        stream = LayerStream(reader, layer, span, held.close)
        # From now on it is the body's to give back.
        held.push(place.pop_all())
        return stream


def _take(place: ExitStack, places: threading.BoundedSemaphore) -> bool:
    """Whether there is a place; it is given back when `place` is closed."""
    taken = places.acquire(blocking=False)
    if taken:
        place.callback(places.release)
    return taken


def _answer(
    status: int, body: LayerFile | LayerStream | bytes, layer: LayerRef, length: int
) -> bottle.HTTPResponse:
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


def _header(name: str) -> str | None:
    value: str | None = CallersHeaders(bottle.request.environ).get(name)
    return value


def _refusal(reason: str) -> bottle.HTTPResponse:
    # Why is for the log: there is nothing to learn here by trying.
    log.info("layer refused reason=%s", reason)
    return error(403, "DENIED", "this URL opens nothing, or no longer")


def _too_many(layer: LayerRef) -> bottle.HTTPResponse:
    log.warning("layer refused, too many downloads digest=%s", layer.digest)
    return error(503, "UNAVAILABLE", "too many downloads at once", [("Retry-After", _RETRY_AFTER)])


def _failure(layer: LayerRef, failed: RemoteError | LayerError) -> bottle.HTTPResponse:
    log.warning("layer not read digest=%s scope=%s reason=%s", layer.digest, layer.scopes[0], failed)
    if isinstance(failed, NotFound):
        return error(404, "BLOB_UNKNOWN", "the layer is gone")
    if isinstance(failed, TimedOut):
        return error(504, "UNAVAILABLE", "the layer could not be read in time")
    return error(502, "UNAVAILABLE", "the layer cannot be read now")


def _etag(layer: LayerRef) -> str:
    return f'"{layer.digest}"'
