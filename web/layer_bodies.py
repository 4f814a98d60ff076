"""The body of an answer that is a layer: read from its source in chunks while it is sent."""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterator

from core.blobs.source import BlobReader
from core.errors import ConnectionCut, LayerError, RemoteError
from core.http.byte_range import Span
from core.layer import Layer

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024


class LayerBody:
    """`span` of a layer in chunks, for the server to send (PEP 3333).

    The first chunk is read at once, so that a failure is answered with an error. `closed` is called once,
    when the server has finished with the body. Raises LayerError; then the reader is closed,
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
