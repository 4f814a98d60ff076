"""Bodies of answers with layers, read piece by piece while the engine receives them.

Every answer with such a body has a Content-Length. A body that ends early makes the server break the
connection, so no engine mistakes a part for the whole.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack

from core.digest import Digest
from core.errors import ConnectionCut, DockerTorrentsError
from core.http.byte_range import Span
from core.http.stream import HttpStream

log = logging.getLogger(__name__)

CHUNK_BYTES = 256 * 1024


class _Body:
    """Keeps its resources until the server closes the body, after success or failure."""

    def __init__(self) -> None:
        self._held = ExitStack()
        self._closed = False
        # The server iterates outside the request's context, which has the id for log lines.
        self._run = contextvars.copy_context().run

    def release_when_closed(self, held: ExitStack) -> None:
        """Close `held` together with this body."""
        self._held = held

    def close(self) -> None:
        """Close the body and its resources; the server calls this (PEP 3333)."""
        self._closed = True
        self._held.close()


class LayerBody(_Body):
    """`span` of a layer. `read(offset, limit)` returns at least one byte.

    `first` are its first bytes, which were read before, so that a failure could still have a status.
    """

    def __init__(self, digest: Digest, span: Span, first: bytes, read: Callable[[int, int], bytes]) -> None:
        super().__init__()
        self._digest = digest
        self._at = span.start + len(first)
        self._end = span.start + span.length
        self._first = first
        self._read = read

    def __iter__(self) -> Iterator[bytes]:
        data, self._first = self._first or self._next(CHUNK_BYTES), b""
        while data:
            yield data
            data = self._next(CHUNK_BYTES)

    def _next(self, limit: int) -> bytes:
        """Return the next bytes, b"" at the end or after a failure."""
        if self._at == self._end or self._closed:
            return b""
        try:
            data = self._run(self._read, self._at, min(limit, self._end - self._at))
            if not data:
                raise ConnectionCut(str(self._digest), self._at, "the layer ended before its size")
        except (DockerTorrentsError, OSError) as error:
            self._run(
                log.warning,
                "connection broken digest=%s offset=%d reason=%s",
                *(self._digest, self._at, error),
            )
            return b""
        self._at += len(data)
        return data


class LazyLayerBody(LayerBody):
    """`span` of a layer whose first bytes were not read before.

    It has the interface of a file: of other bodies, Bottle reads the first bytes before it sends the head.
    """

    def __init__(self, digest: Digest, span: Span, read: Callable[[int, int], bytes]) -> None:
        super().__init__(digest, span, b"", read)

    def read(self, limit: int) -> bytes:
        """Return the next bytes, b"" at the end or after a failure."""
        return self._next(limit)


class ForwardedBody(_Body):
    """The body of the registry's own answer.

    It has the interface of a file: other bodies that turn out to be empty are not closed by Bottle.
    """

    def __init__(self, stream: HttpStream) -> None:
        super().__init__()
        self._stream = stream

    def read(self, limit: int) -> bytes:
        """Return the next bytes, b"" at the end or after a failure. Raises RemoteError."""
        buffer = bytearray(limit)
        try:
            count = self._stream.readinto(memoryview(buffer))
        except DockerTorrentsError as error:
            self._run(log.warning, "connection broken url=%s reason=%s", self._stream.target, error)
            if self._stream.length is None:
                # Without a length only an exception tells the server that the body is incomplete.
                raise
            return b""
        return bytes(buffer[:count])
