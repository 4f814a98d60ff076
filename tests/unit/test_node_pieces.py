"""The pieces of a torrent, with a stand-in for libtorrent's handle."""

from __future__ import annotations

import hashlib
import threading
from typing import Any, cast

import pytest

from core.digest import Digest
from node.counters import Counters
from node.fallback import ReaderState
from node.metainfo import Metainfo
from node.origin import PulledLayer
from node.piece_order import PieceOrder
from node.pieces import Pieces
from node.session import Torrent

SIZE = 64 * 1024
DATA = [bytes([number]) * SIZE for number in range(3)]


class Handle:
    """Accepts every call and returns None; notes the pieces that are to be requested before others."""

    def __init__(self) -> None:
        self.preferred: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None

    def piece_priority(self, piece: int, priority: int) -> None:
        self.preferred.append(piece)


def pieces_of_three(handle: Handle | None = None) -> Pieces:
    return pieces_of(3, handle)


def pieces_of(count: int, handle: Handle | None) -> Pieces:
    hashes = b"".join(hashlib.sha1(data, usedforsecurity=False).digest() for data in DATA) * (count // 3)
    metainfo = Metainfo(b"", count * SIZE, SIZE, hashes, ())
    layer = PulledLayer(Digest("0" * 64), "library/test", count * SIZE)
    pieces = Pieces(layer, metainfo, threading.Condition(), Counters(), lambda: None)
    pieces.attach(Torrent(cast(Any, handle or Handle())))
    return pieces


def test_an_added_piece_is_not_missing_while_libtorrent_processes_it() -> None:
    pieces = pieces_of_three()
    pieces.on_checked([False] * 3)
    pieces.add(1, DATA[1], from_registry=False)
    assert pieces.missing([]) == [0, 2]


def test_a_piece_added_before_the_file_was_checked_is_fetched_again() -> None:
    """Libtorrent drops it silently."""
    pieces = pieces_of_three()
    pieces.add(1, DATA[1], from_registry=False)
    pieces.on_checked([True, False, False])
    assert pieces.missing([]) == [1, 2]
    assert not pieces.has_stuck_piece(0.0)


def test_checking_the_file_again_is_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("node.pieces.time.monotonic", lambda: now)
    pieces = pieces_of_three()
    now += 100  # the first check
    pieces.on_checked([False] * 3)
    now += 60
    pieces.reset()
    now += 100  # the second one
    pieces.on_checked([False] * 3)
    now += 59
    assert not pieces.idle(119.5)
    now += 1
    assert pieces.idle(119.5)
    pieces.on_piece(0)
    assert not pieces.idle(0)


def test_the_lowest_missing_pieces_are_requested_before_others() -> None:
    handle = Handle()
    pieces = pieces_of_three(handle)
    pieces.on_checked([False] * 3)
    assert handle.preferred == [0, 1]
    pieces.on_piece(1)
    assert handle.preferred == [0, 1, 2]
    pieces.reset()  # another torrent follows
    pieces.attach(Torrent(cast(Any, handle)))
    assert handle.preferred == [0, 1, 2, 0, 1]


def test_a_third_of_the_pieces_requested_at_once_are_the_lowest(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("node.piece_order.time.monotonic", lambda: now)
    order, have = PieceOrder(), bytearray(60)
    for piece in range(59, 29, -1):  # 30 in the same second
        have[piece] = 1
        order.received()
    assert order.choose(have) == set(range(10))
    now += 2  # so these are no longer requested
    for piece in range(9):
        have[piece] = 1
        order.received()
    assert order.choose(have) == {10, 11}


@pytest.mark.parametrize(
    ("how", "shows"), [({}, False), ({"stalled": True}, False), ({"leased": True}, True)]
)
def test_only_pieces_from_peers_or_by_a_lease_show_that_the_swarm_works(
    monkeypatch: pytest.MonkeyPatch, how: dict[str, bool], shows: bool
) -> None:
    now = 0.0
    monkeypatch.setattr("node.pieces.time.monotonic", lambda: now)
    pieces = pieces_of_three()
    pieces.on_checked([False] * 3)
    now += 30
    assert pieces.swarm_is_silent(20)
    pieces.add(1, DATA[1], from_registry=False, **how)
    pieces.on_piece(1)
    assert not pieces.idle(20)
    assert pieces.swarm_is_silent(20) is not shows
    pieces.on_piece(2)
    assert not pieces.swarm_is_silent(20)


def test_a_reader_keeps_its_piece_while_others_read_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    # Engines that read a layer in parallel: more pieces than are kept for one reader.
    monkeypatch.setattr("node.pieces._KEPT_BYTES", 0)
    pieces = pieces_of(30, None)
    pieces.on_checked([True] * 30)
    reader, others = ReaderState(0.0), [ReaderState(0.0) for _ in range(10)]
    assert pieces.read(reader, 0, 100) is None
    for number, other in enumerate(others, start=1):
        assert pieces.read(other, number * SIZE, 100) is None
    for number in range(11):
        pieces.on_piece_read(number, DATA[number % 3])

    assert pieces.read(reader, 0, 100) == DATA[0][:100]
    assert pieces.read(reader, SIZE - 100, 200) == DATA[0][-100:]
    assert [pieces.read(other, number * SIZE, 1) for number, other in enumerate(others, start=1)] == [
        DATA[number % 3][:1] for number in range(1, 11)
    ]
