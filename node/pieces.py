"""The pieces of a torrent being downloaded: which are present, and their bytes for readers."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

from core.errors import CacheFailed, DockerTorrentsError, Interrupted
from node.counters import Counters
from node.fallback import ReaderState
from node.metainfo import Metainfo
from node.origin import PulledLayer
from node.piece_order import PieceOrder
from node.session import Torrent, TorrentListener

log = logging.getLogger(__name__)

_KEPT_BYTES = 4 * 1024 * 1024
_READ_AHEAD = 4
_FLUSH_SECONDS = 60.0
_MAX_READ_FAILURES = 5


class Pieces(TorrentListener):
    """Tracks a torrent's pieces and reads them for readers.

    Bytes are read by libtorrent, which knows when a piece can be read; those of pieces added here are kept
    for a nearby reader. `changed` guards everything and is notified when a waiting reader can continue.
    `on_state_change` is called when the file was checked, is complete, or cannot be used, but not for each
    piece: they arrive so fast that the threads would delay each other.
    """

    def __init__(
        self,
        layer: PulledLayer,
        metainfo: Metainfo,
        changed: threading.Condition,
        counters: Counters,
        on_state_change: Callable[[], None],
    ) -> None:
        self.checked = False
        """Whether the file's initial pieces were checked."""
        self.error: DockerTorrentsError | None = None
        self._layer = layer
        self._metainfo = metainfo
        self._changed = changed
        self._counters = counters
        self._on_state_change = on_state_change
        self._torrent: Torrent | None = None
        self._have = bytearray(metainfo.pieces)
        self._fetched: dict[int, bool] = {}
        """Pieces added here, and whether a stalled reader was the reason."""
        self._added: dict[int, float] = {}
        """When the pieces that are not complete yet were added."""
        self._progressed = time.monotonic()
        """When the last piece was completed; moved on by what checks of the file took."""
        self._swarm_progressed = self._progressed
        """The same for pieces from peers or by a lease: while they come, the swarm works."""
        self._check_began = self._progressed
        self._without_lease: set[int] = set()
        """Pieces fetched without a lease."""
        self._damaged: set[int] = set()
        """Pieces received with wrong bytes."""
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._max_kept = max(_READ_AHEAD + 1, _KEPT_BYTES // metainfo.piece_length)
        self._being_read: set[int] = set()
        self._awaited: dict[int, set[ReaderState]] = {}
        """Pieces that readers wait for, and these readers."""
        self._reader_at = 0
        """The piece that a reader wanted last."""
        self._order = PieceOrder()
        self._flushes = 0
        self._read_failures = 0
        """The number of consecutive pieces that could not be read, or differed from what was written."""

    def attach(self, torrent: Torrent) -> None:
        """Set the torrent whose pieces these are."""
        with self._changed:
            self._torrent = torrent
            self._request_lowest_first()

    def reset(self) -> None:
        """Clear all state: another torrent of the same file will be checked and attached."""
        with self._changed:
            self.checked = False
            self._check_began = time.monotonic()
            self._have = bytearray(self._metainfo.pieces)
            self._fetched.clear()
            self._without_lease.clear()
            self._added.clear()
            self._being_read.clear()
            self._order.reset()

    def has_stuck_piece(self, seconds: float) -> bool:
        """Return whether a piece added that long ago is still incomplete."""
        with self._changed:
            return any(time.monotonic() - added > seconds for added in self._added.values())

    def idle(self, seconds: float) -> bool:
        """Return whether no piece was completed for that long."""
        with self._changed:
            return time.monotonic() - self._progressed > seconds

    def swarm_is_silent(self, seconds: float) -> bool:
        """Return whether no piece came from a peer or by a lease for that long."""
        with self._changed:
            return time.monotonic() - self._swarm_progressed > seconds

    @property
    def torrent(self) -> Torrent:
        """The torrent. Raises Interrupted before one is attached."""
        if self._torrent is None:
            raise Interrupted
        return self._torrent

    @property
    def done(self) -> int:
        """The bytes of complete pieces, the last one counted as a full one."""
        return min(self._metainfo.size, self._have.count(1) * self._metainfo.piece_length)

    @property
    def complete(self) -> bool:
        """Whether every piece was compared with its hash."""
        return self.checked and 0 not in self._have

    def has(self, piece: int) -> bool:
        return bool(self._have[piece])

    def damaged(self, piece: int) -> bool:
        """Return whether the piece is missing, and was received with wrong bytes before."""
        return piece in self._damaged and not self._have[piece]

    def has_all(self, pieces: Iterable[int]) -> bool:
        """Return whether all `pieces` are complete or were added."""
        return all(self._have[piece] or piece in self._added for piece in pieces)

    def missing(self, available: Sequence[int]) -> list[int]:
        """Return the pieces that neither this node nor, by `available`, a connected peer has.

        Pieces that were added, but not accepted by libtorrent yet, are not missing.
        """
        with self._changed:
            return [
                piece
                for piece, have in enumerate(self._have)
                if not have and piece not in self._added and not (piece < len(available) and available[piece])
            ]

    def add(
        self, piece: int, data: bytes, from_registry: bool, *, stalled: bool = False, leased: bool = False
    ) -> None:
        """Add a piece whose hash was verified; `stalled` if it is for a stalled reader."""
        with self._changed:
            if self._have[piece]:
                return
            first = piece not in self._fetched
            self._fetched[piece] = stalled
            if not leased:
                self._without_lease.add(piece)
            self._added.setdefault(piece, time.monotonic())
            # Its hash was verified: a reader need not wait until libtorrent has it.
            if stalled or piece in self._awaited or 0 <= piece - self._reader_at < self._max_kept // 2:
                self._keep(piece, data)
        self.torrent.add_piece(piece, data)
        if first:
            self._counters.received("registry" if from_registry else "web_seed", len(data))

    def read(self, reader: ReaderState, offset: int, limit: int) -> bytes | None:
        """Return bytes at `offset`, None if they are not available yet. `changed` must be held."""
        piece, start = divmod(offset, self._metainfo.piece_length)
        if reader.piece is None or reader.piece[0] != piece:
            self._reader_at = piece
            # Pieces read ahead for many readers would displace each other before they are used.
            end = piece + (1 if self._awaited.keys() - {piece} else _READ_AHEAD)
            for ahead in range(piece, min(end, self._metainfo.pieces)):
                if self._torrent is not None and self._have[ahead]:
                    self._request_read(self._torrent, ahead)
            if (data := self._kept.get(piece)) is None:
                self._awaited.setdefault(piece, set()).add(reader)
                return None
            self._kept.move_to_end(piece)
            reader.piece = piece, data
        reader.uses_registry = self._fetched.get(piece, False)
        return reader.piece[1][start : start + limit]

    def flush(self) -> None:
        """Wait until all pieces are in the file."""
        with self._changed:
            before = self._flushes
            self.torrent.flush()
            self._changed.wait_for(lambda: self._flushes > before, _FLUSH_SECONDS)

    def on_checked(self, pieces: Sequence[bool]) -> None:
        with self._changed:
            for piece, present in enumerate(pieces):
                self._have[piece] |= present
            # Pieces added before were dropped.
            self._added.clear()
            self.checked = True
            took = time.monotonic() - self._check_began
            self._progressed += took
            self._swarm_progressed += took
            self._request_lowest_first()
            self._changed.notify_all()
        self._on_state_change()

    def on_piece(self, piece: int) -> None:
        first, last = self._metainfo.span(piece)
        with self._changed:
            if self._have[piece]:
                return
            self._have[piece] = 1
            self._progressed = time.monotonic()
            if piece not in self._without_lease:
                self._swarm_progressed = self._progressed
            if piece not in self._fetched:
                self._order.received()
            self._added.pop(piece, None)
            if self.checked and piece not in self._fetched:
                self._counters.received("peers", last - first)
            self._request_lowest_first()
            if self._torrent is not None and (
                piece in self._awaited or 0 <= piece - self._reader_at < _READ_AHEAD
            ):
                self._request_read(self._torrent, piece)
            complete = self.complete
        if complete:
            self._on_state_change()

    def on_piece_read(self, piece: int, data: bytes | None) -> None:
        # On a full disk libtorrent returns zeros for pieces that it reported as complete.
        right = data is not None and self._metainfo.matches(piece, data)
        with self._changed:
            self._being_read.discard(piece)
            if data is None or not right:
                self._read_failures += 1
                if self._read_failures >= _MAX_READ_FAILURES and self.error is None:
                    self.error = CacheFailed(f"file of {self._layer.digest}", f"piece {piece} cannot be read")
                    self._on_state_change()
                self._changed.notify_all()
            else:
                self._read_failures = 0
                self._keep(piece, data)

    def on_hash_failed(self, piece: int) -> None:
        with self._changed:
            self._fetched.pop(piece, None)
            self._without_lease.discard(piece)
            self._added.pop(piece, None)
            self._damaged.add(piece)
            self._changed.notify_all()
        log.warning("piece had wrong bytes, fetched again piece=%d digest=%s", piece, self._layer.digest)

    def on_flushed(self) -> None:
        with self._changed:
            self._flushes += 1
            self._changed.notify_all()

    def on_failed(self, why: str) -> None:
        with self._changed:
            self.error = CacheFailed(f"file of {self._layer.digest}", why)
            self._changed.notify_all()
        self._on_state_change()

    def _request_read(self, torrent: Torrent, piece: int) -> None:
        if piece not in self._kept and piece not in self._being_read:
            self._being_read.add(piece)
            torrent.read_piece(piece)

    def _keep(self, piece: int, data: bytes) -> None:
        """Keep a piece for readers, and hand it to those waiting for it."""
        self._kept[piece] = data
        while len(self._kept) > self._max_kept:
            self._kept.popitem(last=False)
        if readers := self._awaited.pop(piece, None):
            for reader in readers:
                reader.piece = piece, data
            self._changed.notify_all()

    def _request_lowest_first(self) -> None:
        if self._torrent is not None:
            for piece in self._order.choose(self._have):
                self._torrent.prioritize(piece)
