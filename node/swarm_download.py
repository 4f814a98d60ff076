"""A layer downloaded from its swarm: peers by libtorrent, leased chunks by HTTP."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from core.errors import Interrupted, RemoteError, TimedOut
from core.logs import start_in_context
from core.swarm.bitmap import Bitmap
from core.swarm.chunks import Chunks
from core.swarm.messages import Peer, SwarmAnswer, SwarmRequest
from node.counters import Counters
from node.fallback import ReaderState, backoff
from node.fetch import PieceFetcher
from node.leased_chunks import LeasedChunks
from node.metainfo import Metainfo
from node.origin import PulledLayer
from node.peer_lists import PeerLists
from node.pieces import Pieces
from node.session import Session, Torrent
from node.stalled import StalledReaders
from node.swarm_client import SwarmClient, renewed
from node.without_leases import ROUND_SECONDS, WithoutLeases

log = logging.getLogger(__name__)

STUCK_SECONDS = 20.0
"""Time after which libtorrent is restarted if it did not accept a piece."""
IDLE_SECONDS = 20.0
"""Time without a piece from a peer or by a lease after which a node no longer relies on what peers claim."""


class SwarmDownload:
    """Fills the layer's file in `folder`.

    Everything mutable is guarded by `changed`, which is notified of progress. `readers` returns the readers'
    progress. `on_checked` is called when the file's pieces are known. Without `client` there is no
    service. `time_limit` is in seconds without a piece.
    """

    def __init__(
        self,
        layer: PulledLayer,
        metainfo: Metainfo,
        folder: Path,
        session: Session,
        fetcher: PieceFetcher,
        client: SwarmClient | None,
        readers: Callable[[], Iterable[ReaderState]],
        changed: threading.Condition,
        counters: Counters,
        on_checked: Callable[[], None],
        time_limit: float,
    ) -> None:
        self._wake = threading.Event()
        """Wakes the download's own thread when it has work."""
        self._ended = threading.Event()
        self.pieces = Pieces(layer, metainfo, changed, counters, self._wake.set)
        self._layer = layer
        self._metainfo = metainfo
        self._folder = folder
        self._session = session
        self._fetcher = fetcher
        self._client = client
        self._changed = changed
        self._counters = counters
        self._on_checked = on_checked
        self._time_limit = time_limit
        self._random = random.Random()  # noqa: S311 - spreads load, hides nothing
        self._chunks = Chunks.of(metainfo.size, metainfo.piece_length)
        self._stalled = StalledReaders(
            layer,
            self._chunks,
            self.pieces,
            fetcher,
            readers,
            self._others,
            self._pause,
            self._fail,
            counters,
        )
        self._leased = LeasedChunks(
            layer.digest,
            self._chunks,
            self.pieces,
            partial(self._fetch, leased=True),
            self._has_ended,
            changed,
            self._wake.set,
        )
        self._without_leases = WithoutLeases(
            layer,
            self._chunks,
            readers,
            self._missing_chunks,
            partial(self._fetch, leased=False),
            self._others,
            self._has_ended,
            self._sleep,
        )
        self._failures = 0
        """The number of consecutive failed swarm calls."""
        self._peer_lists = PeerLists()
        self._stopped = False

    @property
    def peers(self) -> int:
        """The number of connected peers."""
        try:
            return self.pieces.torrent.status().peers
        except Interrupted:
            return 0

    def run(self) -> Torrent:
        """Download until every piece is verified.

        Raises CacheFailed, TimedOut, Interrupted.
        """
        self.pieces.attach(self._session.add(self._metainfo, self._folder, self.pieces))
        try:
            self._download()
        except BaseException:
            self._session.remove(self.pieces.torrent)
            raise
        return self.pieces.torrent

    def stop(self) -> None:
        """Make `run` end soon."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._wake.set()
        self._ended.set()
        self._fetcher.close()

    def renewed(self) -> Metainfo:
        """Return the metainfo with the newest capability of the service."""
        if self._client is None:
            return self._metainfo
        return renewed(self._metainfo, self._client.address, self._layer.digest)

    def _download(self) -> None:
        try:
            # At once: checking the file of a large layer may take longer than a reader waits.
            # Not joined: it may hang in a request, and pieces that arrive too late are ignored.
            start_in_context("stalled readers", self._stalled.run)
            self._sleep(None, lambda: self.pieces.checked)
            self._on_checked()
            while not self._has_ended():
                self._call_service()
                if self.pieces.idle(self._time_limit):
                    raise TimedOut(f"layer {self._layer.digest}", self._time_limit)
                if self.pieces.has_stuck_piece(STUCK_SECONDS):
                    self._restart()
            if self.pieces.error is not None:
                raise self.pieces.error
            if not self.pieces.complete:
                raise Interrupted
        finally:
            self.stop()

    def _restart(self) -> None:
        """Remove the torrent and add it again, which checks the file."""
        log.warning("pieces not completed by libtorrent, torrent restarted digest=%s", self._layer.digest)
        self._counters.fell_back("restarted")
        self._session.remove(self.pieces.torrent)
        self._peer_lists.disconnected()
        self.pieces.reset()
        self.pieces.attach(self._session.add(self._metainfo, self._folder, self.pieces))
        self._sleep(None, lambda: self.pieces.checked)

    def _has_ended(self) -> bool:
        return self._stopped or self.pieces.error is not None or self.pieces.complete

    def _others(self) -> int:
        return max(self._peer_lists.named, self.peers)

    def _call_service(self) -> None:
        """Make one swarm call, and follow its answer until the next one is due."""
        if self._client is None:
            self._without_leases.run(ROUND_SECONDS)
            return
        fetched = self._leased.unreported()
        try:
            answer = self._client.call(self._request(fetched))
        except RemoteError:
            self._counters.fell_back("swarm_service")
            self._failures += 1
            self._without_leases.run(backoff(self._failures, self._random))
            return
        self._failures = 0
        self._leased.reported(fetched)
        self._fetcher.set_web_seed(self._client.address.web_seed(self._layer.digest))
        self._connect(self.pieces.torrent, answer.peers)
        self._leased.set_leases(answer.leases)
        if self.pieces.swarm_is_silent(IDLE_SECONDS):
            self._without_leases.run(answer.again)
        else:
            self._wait_for_next_call(answer)

    def _request(self, fetched: list[int]) -> SwarmRequest:
        missing = self._missing_chunks()
        held = sorted(set(range(self._chunks.count)).difference(missing))
        return SwarmRequest(
            node=self._session.node,
            port=self._session.port,
            chunks=self._chunks.count,
            held=Bitmap.of(self._chunks.count, held).to_base64(),
            fetched=fetched,
            want=self._leased.leases_to_request(len(missing)),
            unspread=self._leased.unspread(self.pieces.torrent.available()),
            peers=self._peer_lists.to_request(self.peers),
        )

    def _wait_for_next_call(self, answer: SwarmAnswer) -> None:
        if failures := self._leased.failures:
            self._sleep(backoff(failures, self._random))
        else:
            self._sleep(answer.again, lambda: self._leased.call_due)

    def _missing_chunks(self) -> list[int]:
        """Return the chunks of which neither this node nor a connected peer has every piece.

        The claims of peers count only while pieces arrive: they may send nothing, or wrong bytes.
        """
        missing = self.pieces.missing(
            [] if self.pieces.swarm_is_silent(IDLE_SECONDS) else self.pieces.torrent.available()
        )
        return sorted({self._chunks.chunk_of(piece) for piece in missing})

    def _connect(self, torrent: Torrent, peers: Sequence[Peer]) -> None:
        connections, first = self.peers, not self._peer_lists.named
        chosen = self._peer_lists.to_connect(peers, connections)
        for address in chosen:
            torrent.connect(*address)
        if first and chosen and not connections and not self._leased.count:
            torrent.connect_now()

    def _fetch(self, pieces: range, *, leased: bool) -> None:
        """Fetch the missing ones of `pieces` by HTTP. Raises RemoteError."""

        def add(piece: int, data: bytes, from_registry: bool) -> None:
            self.pieces.add(piece, data, from_registry, leased=leased)
            self._leased.piece_added(piece)

        self._fetcher.fetch(pieces, self._is_missing, add)

    def _is_missing(self, piece: int) -> bool:
        return not self._stopped and not self.pieces.has_all((piece,))

    def _sleep(self, seconds: float | None, until: Callable[[], bool] = lambda: False) -> None:
        """Wait in the download's own thread for some seconds, or until `until` is true or it ends."""
        end = None if seconds is None else time.monotonic() + seconds
        while True:
            self._wake.clear()
            left = None if end is None else end - time.monotonic()
            if self._has_ended() or until() or (left is not None and left <= 0):
                return
            self._wake.wait(left)

    def _pause(self, seconds: float, until: Callable[[], bool] | None = None) -> bool:
        """Wait in another thread for some seconds, or until `until` is true after a reader was served.

        Return whether the download continues.
        """
        if until is None:
            self._ended.wait(seconds)
        else:
            with self._changed:
                self._changed.wait_for(lambda: self._has_ended() or until(), seconds)
        return not self._has_ended()

    def _fail(self, reader: ReaderState, error: Exception) -> None:
        with self._changed:
            reader.error = error
            self._changed.notify_all()
