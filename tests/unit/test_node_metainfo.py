"""The mirror's parser of a .torrent: it is that of the layer, and consistent, or is refused."""

from __future__ import annotations

from typing import Any

import libtorrent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.digest import Digest
from node.metainfo import Metainfo, parse_metainfo
from tests.nodes import PIECE, make_layer, make_torrent

WEB_SEED = "http://a.example/layer"
DATA, LAYER = make_layer(2 * PIECE + 1)
TORRENT = make_torrent(DATA, [WEB_SEED])


def changed(**info: object) -> bytes:
    """Return the torrent with other values in its info dictionary; `_` in a name stands for a space."""
    torrent: Any = libtorrent.bdecode(TORRENT)
    torrent[b"info"].update({name.replace("_", " ").encode(): value for name, value in info.items()})
    return bytes(libtorrent.bencode(torrent))


def test_the_torrent_of_a_layer_is_parsed_without_its_size_too() -> None:
    metainfo = parse_metainfo(TORRENT, LAYER.digest, LAYER.size)
    assert (metainfo.size, metainfo.piece_length, metainfo.pieces) == (LAYER.size, PIECE, 3)
    assert metainfo.web_seeds == (WEB_SEED,)
    assert libtorrent.bdecode(metainfo.encode()) == libtorrent.bdecode(TORRENT)
    assert parse_metainfo(TORRENT, LAYER.digest) == metainfo


def test_the_torrent_of_another_layer_is_refused() -> None:
    for digest, size in [(Digest("0" * 64), LAYER.size), (LAYER.digest, LAYER.size - 1)]:
        with pytest.raises(ValueError, match="belongs to another layer"):
            parse_metainfo(TORRENT, digest, size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<html>",
        b"de",
        b"le",
        b"i1e",
        b"d4:infodee",
        b"9" * 17 + b":a",
        TORRENT[:-1],
        changed(length=-5),
        changed(length=0, pieces=b""),
        changed(length=b"5"),
        changed(length=PIECE),
        changed(piece_length=0),
        changed(piece_length=-PIECE),
        changed(length=-5, piece_length=-PIECE, pieces=b"x" * 20),
        changed(piece_length=1 << 40, pieces=b"x" * 20),
        changed(pieces=60),
        changed(pieces=[b"x"] * 60),
    ],
)
def test_a_malformed_torrent_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="torrent"):
        parse_metainfo(data, LAYER.digest)


@given(position=st.integers(0, len(TORRENT) - 1), byte=st.integers(0, 255), end=st.integers(0, len(TORRENT)))
def test_a_damaged_torrent_is_parsed_or_refused(position: int, byte: int, end: int) -> None:
    damaged = bytearray(TORRENT)
    damaged[position] = byte
    for data in (bytes(damaged), bytes(damaged[:end])):
        try:
            found = parse_metainfo(data, LAYER.digest)
        except ValueError:
            continue
        assert isinstance(found, Metainfo)
        assert found.pieces == -(-found.size // found.piece_length) > 0
