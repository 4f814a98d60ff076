"""Fetch chunks from the registry for readers for which the swarm is too slow."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable

from core.errors import RemoteError
from core.swarm.chunks import Chunks
from node.counters import Counters
from node.fallback import Progress, is_next, is_stalled, pause_before_registry, run_length
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
        readers: Callable[[], Iterable[Progress]],
        others: Callable[[], int],
        pause: Callable[[float, Callable[[], bool] | None], bool],
        fail: Callable[[Progress, Exception], None],
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
        self._row = 0
        """The number of consecutive fetches for readers."""
        self._random = random.Random()  # noqa: S311 - spreads load, hides nothing

    def run(self) -> None:
        """Help until the download has ended."""
        while self._pause(TICK, None):
            reader = self._stalled()
            if reader is not None:
                self._help(reader, reader.offset)

    def _stalled(self) -> Progress | None:
        now, readers = time.monotonic(), list(self._readers())
        for reader in readers:
            if not self._waits(reader, reader.offset):
                continue
            # Peers that send wrong bytes count as having the missing chunk, so there may be no lease for it.
            damaged = self._pieces.damaged(reader.offset // self._chunks.piece_length)
            if damaged or (is_stalled(reader, now, self._fetcher.rate) and is_next(reader, readers, now)):
                return reader
        return None

    def _waits(self, reader: Progress, offset: int) -> bool:
        missing = not self._pieces.has(offset // self._chunks.piece_length)
        return missing and reader.waiting_since is not None and reader.offset == offset

    def _help(self, reader: Progress, offset: int) -> None:
        others = self._others()
        pause = pause_before_registry(others, self._random)
        if not self._pause(pause, lambda: not self._waits(reader, offset)) or not self._waits(reader, offset):
            return
        self._row = self._row + 1 if reader.helped else 0
        if not reader.helped:
            self._counters.fell_back("stalled")
            log.warning(
                "reader stalled, fetching from the registry digest=%s offset=%d", self._layer.digest, offset
            )
        piece = offset // self._chunks.piece_length
        last = min(self._chunks.chunk_of(piece) + run_length(others, self._row), self._chunks.count) - 1
        pieces = range(piece, self._chunks.pieces(last).stop)
        try:
            self._fetcher.fetch(pieces, self._lacks, self._add, registry_only=True)
        except RemoteError as error:
            # The end of the download closes its requests, and the swarm may have served the reader.
            if self._pause(TICK, None) and self._waits(reader, offset):
                self._fail(reader, error)

    def _lacks(self, piece: int) -> bool:
        return not self._pieces.has(piece)

    def _add(self, piece: int, data: bytes, from_registry: bool) -> None:
        self._pieces.add(piece, data, from_registry, helps=True)
