"""Bodies of answers that are layers: read chunk by chunk, or given to the server as a file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

from core.blobs.directory import FileReader
from core.blobs.source import BlobReader
from core.errors import ConnectionCut, LayerError, RemoteError
from core.http.byte_range import Span
from core.layer import LayerRef

log = logging.getLogger(__name__)

CHUNK_BYTES = 64 * 1024
"""Larger chunks cost the processor more: their memory is the kernel's anew each time (bench/web_seed.py)."""


class LayerStream:
    """`span` of a layer in chunks, for a thread of the server to send (PEP 3333).

    The first chunk is read at once, to fail before the answer. `closed` is called once, when the server
    is done with the body, however it ended. Raises LayerError; then the reader is closed, and `closed` not
    called.
    """

    def __init__(self, reader: BlobReader, layer: LayerRef, span: Span, closed: Callable[[], None]) -> None:
        self._layer = layer
        self._span = span
        self._closed = closed
        self._sent = 0
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
                chunk = self._read(self._reader)
            except (RemoteError, LayerError) as failed:
                # The status is sent: what is left is to break off, so that the client sees it is not all.
                log.warning(
                    "layer broken off digest=%s sent=%d reason=%s", self._layer.digest, self._sent, failed
                )
                # What a server knows as the end of a connection.
                raise ConnectionAbortedError("the layer's source broke off") from None

    def close(self) -> None:
        """Called by the server when the body is sent, or its reader gone."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
            self._closed()

    def _read(self, reader: BlobReader) -> bytes:
        """The next bytes, never none: a blob that ends before its size was cut."""
        buffer = bytearray(min(CHUNK_BYTES, self._span.length - self._sent))
        filled = reader.readinto(memoryview(buffer))
        if not filled:
            raise ConnectionCut("the source", self._span.start + self._sent, "it ended before its size")
        return bytes(memoryview(buffer)[:filled])


class LayerFile:
    """`span` of a layer as a file, for `wsgi.file_wrapper` (PEP 3333): no thread waits while it is sent.

    `closed` is called once. Raises ConnectionCut if the file has not `size` bytes; then the reader is closed.
    """

    def __init__(self, reader: FileReader, span: Span, size: int, closed: Callable[[], None]) -> None:
        self._reader: FileReader | None = reader
        self._file = reader.file
        self._end = span.start + span.length
        self._closed = closed
        found = self._file.seek(0, os.SEEK_END)
        self._file.seek(span.start)
        if found != size:
            reader.close()
            raise ConnectionCut("the source", found, f"it has {found} bytes, not {size}")

    def fileno(self) -> int:
        """The descriptor of the file itself."""
        return self._file.fileno()

    def read(self, count: int = -1, /) -> bytes:
        """The next `count` bytes, or all, never beyond the span."""
        left = max(0, self._end - self._file.tell())
        return self._file.read(left if count < 0 else min(count, left)) or b""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """As of the file itself."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of the file itself."""
        return self._file.tell()

    def close(self) -> None:
        """Called by the server when the body is sent, or its reader gone."""
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()
            self._closed()
