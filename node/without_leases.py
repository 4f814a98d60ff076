"""Fetch chunks without leases, when the service fails or peers send nothing."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable

from core.errors import NO_ANSWER, RemoteError
from core.swarm.chunks import Chunks
from node.fallback import ReaderState, chunk_without_service, chunks_per_request, pause_before_registry
from node.origin import PulledLayer

log = logging.getLogger(__name__)

ROUND_SECONDS = 1.0
"""How long chunks are fetched at a time if there is no service to call."""


class WithoutLeases:
    """Fetches missing chunks at random, one request at a time, in the download's thread.

    `fetch` fetches a range of pieces by HTTP, `others` is the number of other nodes, `has_ended` returns
    whether the download has ended, and `sleep` waits for some seconds or until then.
    """

    def __init__(
        self,
        layer: PulledLayer,
        chunks: Chunks,
        readers: Callable[[], Iterable[ReaderState]],
        missing_chunks: Callable[[], list[int]],
        fetch: Callable[[range], None],
        others: Callable[[], int],
        has_ended: Callable[[], bool],
        sleep: Callable[[float], None],
    ) -> None:
        self._layer = layer
        self._chunks = chunks
        self._readers = readers
        self._missing_chunks = missing_chunks
        self._fetch = fetch
        self._others = others
        self._has_ended = has_ended
        self._sleep = sleep
        self._random = random.Random()  # noqa: S311 - spreads load, hides nothing

    def run(self, seconds: float) -> None:
        """Fetch chunks for about `seconds`."""
        until = time.monotonic() + seconds
        while not self._has_ended() and (left := until - time.monotonic()) > 0:
            others = self._others()
            chunk = chunk_without_service(self._missing_chunks(), self._wanted(), others, self._random)
            if chunk is None:
                self._sleep(left)
                return
            self._sleep(pause_before_registry(others, self._random))
            if self._has_ended() or chunk not in self._missing_chunks():
                continue
            last = min(chunk + chunks_per_request(others, 0), self._chunks.count) - 1
            pieces = range(self._chunks.pieces(chunk).start, self._chunks.pieces(last).stop)
            try:
                self._fetch(pieces)
            except RemoteError as error:
                # A server that does not answer is logged elsewhere, once for all layers.
                known = isinstance(error, NO_ANSWER) or self._has_ended()
                log.log(
                    logging.DEBUG if known else logging.WARNING,
                    "pieces not fetched pieces=%s digest=%s reason=%s",
                    *(pieces, self._layer.digest, error),
                )
                self._sleep(max(ROUND_SECONDS, until - time.monotonic()))

    def _wanted(self) -> int:
        """Return the chunk of the first byte that a reader waits for."""
        waiting = [reader.offset for reader in self._readers() if reader.waiting_since is not None]
        return self._chunks.chunk_of(min(waiting, default=0) // self._chunks.piece_length)
