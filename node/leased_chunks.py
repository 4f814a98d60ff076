"""The chunks that a node fetches for its swarm: leased, being fetched, and to be reported."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from core.digest import Digest
from core.errors import NO_ANSWER, DockerTorrentsError
from core.logs import start_in_context
from core.swarm.chunks import Chunks
from core.swarm.messages import MAX_FETCHED, Lease
from node.pieces import Pieces

log = logging.getLogger(__name__)

MAX_LEASES = 16
"""The most leases of a node: all of them while it is alone."""
MAX_REQUESTS = 2
"""The most concurrent requests for leased chunks: the next one begins while the last one ends. With more, the
requests of all nodes compete for the bandwidth of the origin, and some stall for seconds."""


class LeasedChunks:
    """Fetches leased chunks of one download in separate threads.

    `fetch` fetches a range of pieces by HTTP. `has_ended` returns whether the download has ended. `wake`
    wakes the thread that makes swarm calls. Everything mutable is guarded by `lock`.
    """

    def __init__(
        self,
        digest: Digest,
        chunks: Chunks,
        pieces: Pieces,
        fetch: Callable[[range], None],
        has_ended: Callable[[], bool],
        lock: threading.Condition,
        wake: Callable[[], None],
    ) -> None:
        self._digest = digest
        self._chunks = chunks
        self._pieces = pieces
        self._fetch = fetch
        self._has_ended = has_ended
        self._lock = lock
        self._wake = wake
        self._waiting: list[int] = []
        """The chunks still to be fetched, in ascending order."""
        self._in_flight: set[int] = set()
        self._requests = 0
        self._unreported: set[int] = set()
        """The chunks fetched but not reported yet."""
        self.count = 0
        """The number of fetched chunks."""
        self._unspread: set[int] = set()
        """The fetched chunks that no peer has announced yet."""
        self.failures = 0
        """The number of consecutive failed requests."""
        self.call_due = False
        """Whether a swarm call is due: chunks were fetched, and few others wait."""

    def leases_to_request(self, missing: int) -> int:
        """Return how many leases to request; nodes that start together get one each."""
        return min(MAX_LEASES, missing, 1 + self.count)

    def unspread(self, available: Sequence[int]) -> int:
        """Return how many fetched chunks no peer has yet, by the number of peers that have each piece."""
        with self._lock:
            self._unspread = {
                chunk
                for chunk in self._unspread
                if any(
                    piece >= len(available) or not available[piece] for piece in self._chunks.pieces(chunk)
                )
            }
            return len(self._unspread)

    def unreported(self) -> list[int]:
        """Return the fetched chunks to report in the current call."""
        with self._lock:
            self.call_due = False
            return sorted(self._unreported)[:MAX_FETCHED]

    def reported(self, chunks: Sequence[int]) -> None:
        """Drop the reported chunks."""
        with self._lock:
            self._unreported.difference_update(chunks)

    def set_leases(self, leases: Sequence[Lease]) -> None:
        """Fetch the newly leased chunks, instead of those leased before."""
        with self._lock:
            known = {lease.chunk for lease in leases if lease.chunk < self._chunks.count}
            self._waiting = sorted(
                chunk
                for chunk in known - self._in_flight
                if not self._pieces.has_all(self._chunks.pieces(chunk))
            )
            more = min(MAX_REQUESTS - self._requests, len(self._waiting))
            self._requests += more
        for _ in range(more):
            # Not joined: it may hang in a request, and pieces that arrive too late are ignored.
            start_in_context("leased chunks", self._run)

    def piece_added(self, piece: int) -> None:
        """Record that a piece was added: its chunk may be complete."""
        chunk = self._chunks.chunk_of(piece)
        if chunk not in self._in_flight or not self._pieces.has_all(self._chunks.pieces(chunk)):
            return
        with self._lock:
            self._unreported.add(chunk)
            self._unspread.add(chunk)
            self.count += 1
            self.call_due |= len(self._waiting) < MAX_REQUESTS
        self._wake()

    def _run(self) -> None:
        while (run := self._next()) is not None:
            fetched = False
            try:
                self._fetch(range(self._chunks.pieces(run.start).start, self._chunks.pieces(run[-1]).stop))
                fetched = True
            except DockerTorrentsError as error:
                # A server that does not answer is logged elsewhere, once for all layers.
                known = isinstance(error, NO_ANSWER) or self._has_ended()
                log.log(
                    logging.DEBUG if known else logging.WARNING,
                    "leased chunks not fetched first=%d last=%d digest=%s reason=%s",
                    *(run[0], run[-1], self._digest, error),
                )
            except Exception:
                log.exception(
                    "leased chunks not fetched, internal error first=%d last=%d digest=%s",
                    *(run[0], run[-1], self._digest),
                )
            with self._lock:
                self._in_flight.difference_update(run)
                self.failures = 0 if fetched else self.failures + 1
                if not fetched:
                    self._waiting.clear()
                self.call_due |= len(self._waiting) < MAX_REQUESTS
            self._wake()

    def _next(self) -> range | None:
        """Take adjacent chunks for one request, at most half of the waiting ones."""
        with self._lock:
            if not self._waiting or self._has_ended():
                self._requests -= 1
                return None
            first, most = self._waiting[0], max(1, len(self._waiting) // MAX_REQUESTS)
            run = range(first, first + 1)
            while len(run) < most and self._waiting[len(run)] == run.stop:
                run = range(first, run.stop + 1)
            del self._waiting[: len(run)]
            self._in_flight.update(run)
            return run
