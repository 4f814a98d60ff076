"""Fetch chunks from the registry for readers for which the swarm is too slow."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable

from core.errors import RemoteError
from core.swarm.chunks import Chunks
from node.counters import Counters
from node.fallback import ReaderState, chunks_per_request, is_first_waiting, is_stalled, pause_before_registry
from node.fetch import PieceFetcher
from node.origin import PulledLayer
from node.pieces import Pieces

log = logging.getLogger(__name__)

TICK = 0.25


class StalledReaders:
    """Detects stalled readers of one download and fetches their chunks, one at a time.

    `pause` waits for some seconds, or until its second argument is true after a reader was served, or the
    download has ended, and returns whether it continues. `others` is the number of other nodes in the swarm.
    `fail` passes an error to a reader, which ends with it.
    """

    def __init__(
        self,
        layer: PulledLayer,
        chunks: Chunks,
        pieces: Pieces,
        fetcher: PieceFetcher,
        readers: Callable[[], Iterable[ReaderState]],
        others: Callable[[], int],
        pause: Callable[[float, Callable[[], bool] | None], bool],
        fail: Callable[[ReaderState, Exception], None],
        counters: Counters,
    ) -> None:
        self._layer = layer
        self._chunks = chunks
        self._pieces = pieces
        self._fetcher = fetcher
        self._readers = readers
        self._others = others
        self._pause = pause
        self._fail = fail
        self._counters = counters
        self._consecutive = 0
        """The number of consecutive fetches for readers."""
        self._random = random.Random()  # noqa: S311 - spreads load, hides nothing

    def run(self) -> None:
        """Serve stalled readers until the download has ended."""
        while self._pause(TICK, None):
            reader = self._stalled()
            if reader is not None:
                self._fetch_for(reader, reader.offset)

    def _stalled(self) -> ReaderState | None:
        now, readers = time.monotonic(), list(self._readers())
        for reader in readers:
            if not self._is_waiting(reader, reader.offset):
                continue
            # Peers that send wrong bytes count as having the missing chunk, so there may be no lease for it.
            damaged = self._pieces.damaged(reader.offset // self._chunks.piece_length)
            stalled = is_stalled(reader, now, self._fetcher.rate)
            if damaged or (stalled and is_first_waiting(reader, readers, now)):
                return reader
        return None

    def _is_waiting(self, reader: ReaderState, offset: int) -> bool:
        missing = not self._pieces.has(offset // self._chunks.piece_length)
        return missing and reader.waiting_since is not None and reader.offset == offset

    def _fetch_for(self, reader: ReaderState, offset: int) -> None:
        others = self._others()
        pause = pause_before_registry(others, self._random)
        if not self._pause(pause, lambda: not self._is_waiting(reader, offset)):
            return
        if not self._is_waiting(reader, offset):
            return
        self._consecutive = self._consecutive + 1 if reader.uses_registry else 0
        if not reader.uses_registry:
            self._counters.fell_back("stalled")
            log.warning(
                "reader stalled, fetching from the registry digest=%s offset=%d", self._layer.digest, offset
            )
        piece = offset // self._chunks.piece_length
        count = chunks_per_request(others, self._consecutive)
        last = min(self._chunks.chunk_of(piece) + count, self._chunks.count) - 1
        pieces = range(piece, self._chunks.pieces(last).stop)
        try:
            self._fetcher.fetch(pieces, self._is_missing, self._add, registry_only=True)
        except RemoteError as error:
            # The end of the download closes its requests, and the swarm may have served the reader.
            if self._pause(TICK, None) and self._is_waiting(reader, offset):
                self._fail(reader, error)

    def _is_missing(self, piece: int) -> bool:
        return not self._pieces.has(piece)

    def _add(self, piece: int, data: bytes, from_registry: bool) -> None:
        self._pieces.add(piece, data, from_registry, stalled=True)
