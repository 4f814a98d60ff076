"""Metainfo: a layer's id never changes, and libtorrent accepts the torrent."""

from __future__ import annotations

import hashlib
import io
from typing import Any

import libtorrent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.torrents.hashing import LayerHashes, hash_layer
from core.torrents.metainfo import Metainfo, build_metainfo, with_sources
from core.torrents.piece_length import piece_length

MIB = 1024 * 1024
GIB = 1024 * MIB
TRACKERS = ["http://tracker.example/announce", "udp://other.example:6969"]
WEB_SEED = "http://torrents.example/v0/layers/capability/" + "ab" * 32

# Layers of the bytes 0 to 255 over and over. Size, piece length, pieces, and the id's 40 digits, private
# and public. Created by libtorrent's create_torrent from the same bytes, without our code.
GOLDEN = [
    line.split()
    for line in """\
1 65536 1 a0b67a73b9b0933ffda282b4fc3f68c59d5b1c03 72dfb237b21dcf35164ee71f5da9fdc0047f34c5
416 65536 1 91462e8725a88b709c9b69f2ecd2c57e5afa5da0 c029bcd96a590dc2c362aeae6832aed6b5ef2000
65535 65536 1 9617c3b47ad2ff7a59fbae4e0016a1f09808d38d 4625d41c581dd1f2a7713efb9ed8a4d7b66d5430
65536 65536 1 ef14124b92fab395fffd91aa9746a72015419628 0ea8c0630cd7193b941a185b3a4e54f174acd15b
65537 65536 2 2019dc3871e9edd808baa6009ce87a78276331b5 57bfcbea47eb7e05f804262caee29cf88f17d241
87394128 131072 667 d1efba68881180c1614a7cf88cda24b84b570666 554af394a14b07880921ae596091507a4eefac75
67108863 65536 1024 9d6506052a49f943f977768fdc51a49f387dcd6a e8ad729e8282937e92c1219103362363db4f4c88
67108864 65536 1024 6cf202e52afae5e43d139fcbbc9b501eeabeee96 879101b2373e4b7cb3d59a70d3f21061ba625687
67108865 131072 513 cc2af6ee7974f821abbbc141588d3b6fcacbf99b 6ee2c745cd93807939253777e488c2496c2fe9cd
134217728 131072 1024 7e09eb162acaf6249f59405828c398f6455806b6 b2b5dd664beab4b83ab24eef385b5190278f6841
134217729 262144 513 0de6b89bd6c4d22f09a62393e94fc882e5b78181 81cbdd352eaee3287515626d4f8b29c249efe224
""".splitlines()
]


def content_of(size: int) -> bytes:
    block = bytes(range(256)) * 256
    return (block * (size // len(block) + 1))[:size]


def brewed(content: bytes, private: bool = True) -> Metainfo:
    hashes = hash_layer(io.BytesIO(content), len(content), piece_length(len(content)))
    return build_metainfo(hashes.sha256, hashes, private)


def hashes_of_size(size: int) -> LayerHashes:
    """Return arbitrary hashes for a layer that is too large for a test."""
    count = -(-size // piece_length(size))
    pieces = b"".join(hashlib.sha1(str(number).encode()).digest() for number in range(count))
    return LayerHashes(size, hashlib.sha256(b"large").hexdigest(), piece_length(size), pieces)


def loaded(data: bytes) -> Any:
    """Return `data` as parsed and checked by libtorrent."""
    return libtorrent.load_torrent_buffer(data).ti


def id_by_libtorrent(data: bytes) -> str:
    return f"rbtorrent:{loaded(data).info_hashes().v1}"


SMALL = brewed(content_of(200_000)).data


@pytest.mark.parametrize(("size", "length", "pieces", "private_id", "public_id"), GOLDEN)
def test_the_id_of_a_layer_is_pinned(
    size: str, length: str, pieces: str, private_id: str, public_id: str
) -> None:
    content = content_of(int(size))
    for private, digits in [(True, private_id), (False, public_id)]:
        metainfo = brewed(content, private)
        assert metainfo.rbtorrent_id == f"rbtorrent:{digits}"
        assert id_by_libtorrent(metainfo.data) == metainfo.rbtorrent_id
        torrent = loaded(metainfo.data)
        assert torrent.name() == hashlib.sha256(content).hexdigest()
        assert torrent.total_size() == int(size)
        assert torrent.piece_length() == int(length)
        assert torrent.num_pieces() == int(pieces)
        assert torrent.priv() is private


@pytest.mark.parametrize("private", [True, False])
def test_the_metainfo_holds_exactly_what_bep_3_requires(private: bool) -> None:
    content = content_of(70_000)
    pieces = hashlib.sha1(content[:65536]).digest() + hashlib.sha1(content[65536:]).digest()
    assert libtorrent.bdecode(brewed(content, private).data) == {
        b"info": {
            b"length": 70_000,
            b"name": hashlib.sha256(content).hexdigest().encode(),
            b"piece length": 65536,
            b"pieces": pieces,
            **({b"private": 1} if private else {}),
        }
    }


def test_the_bytes_of_a_small_metainfo_are_pinned() -> None:
    assert brewed(b"docker").data == (
        b"d4:infod6:lengthi6e"
        b"4:name64:" + hashlib.sha256(b"docker").hexdigest().encode() + b"12:piece lengthi65536e"
        b"6:pieces20:" + hashlib.sha1(b"docker").digest() + b"7:privatei1eee"
    )


@pytest.mark.parametrize("private", [True, False])
@pytest.mark.parametrize("size", [1, 65536, 65537, 5_000_000, 64 * MIB + 1])
def test_libtorrent_loads_it_and_finds_the_layers_bytes_in_it(size: int, private: bool) -> None:
    content = content_of(size)
    metainfo = brewed(content, private)
    torrent = loaded(metainfo.data)
    length = torrent.piece_length()
    assert f"rbtorrent:{torrent.info_hashes().v1}" == metainfo.rbtorrent_id
    assert torrent.total_size() == size
    assert torrent.priv() is private
    assert torrent.num_files() == 1
    assert torrent.name() == hashlib.sha256(content).hexdigest()
    assert [torrent.hash_for_piece(number) for number in range(torrent.num_pieces())] == [
        hashlib.sha1(content[start : start + length]).digest() for start in range(0, size, length)
    ]


@pytest.mark.parametrize("size", [16 * GIB, 16 * GIB + 1, 500 * GIB, 2048 * GIB])
def test_libtorrent_accepts_the_metainfo_of_layers_of_many_gibibytes(size: int) -> None:
    hashes = hashes_of_size(size)
    metainfo = build_metainfo(hashes.sha256, hashes, True)
    assert loaded(metainfo.data).total_size() == size
    assert id_by_libtorrent(metainfo.data) == metainfo.rbtorrent_id
    assert id_by_libtorrent(with_sources(metainfo.data, TRACKERS, [WEB_SEED])) == metainfo.rbtorrent_id
    assert loaded(metainfo.data).num_pieces() == len(hashes.pieces) // 20


@pytest.mark.parametrize(
    "hashes",
    [
        LayerHashes(0, "ab" * 32, 65536, b""),
        LayerHashes(65537, "ab" * 32, 65536, b"x" * 20),
        LayerHashes(65536, "ab" * 32, 65536, b"x" * 40),
        LayerHashes(65536, "ab" * 32, 65536, b"x" * 19),
        LayerHashes(65536, "ab" * 32, 65535, b"x" * 40),
    ],
    ids=["no bytes", "a piece missing", "a piece too many", "half a piece", "an odd piece length"],
)
def test_inconsistent_hashes_are_refused(hashes: LayerHashes) -> None:
    with pytest.raises(ValueError, match="not metainfo"):
        build_metainfo("ab" * 32, hashes, True)


def test_trackers_and_web_seeds_do_not_change_the_id() -> None:
    served = with_sources(SMALL, TRACKERS, [WEB_SEED])
    decoded = libtorrent.bdecode(served)
    assert decoded == {
        b"announce": TRACKERS[0].encode(),
        b"announce-list": [[tracker.encode()] for tracker in TRACKERS],
        b"info": libtorrent.bdecode(SMALL)[b"info"],
        b"url-list": [WEB_SEED.encode()],
    }
    params = libtorrent.load_torrent_buffer(served)
    assert list(params.trackers) == TRACKERS
    assert list(params.url_seeds) == [WEB_SEED]
    assert id_by_libtorrent(served) == id_by_libtorrent(SMALL)


def test_one_tracker_needs_no_list() -> None:
    decoded = libtorrent.bdecode(with_sources(SMALL, TRACKERS[:1], []))
    assert set(decoded) == {b"announce", b"info"}


def test_setting_sources_replaces_earlier_ones() -> None:
    served = with_sources(SMALL, TRACKERS, [WEB_SEED])
    assert with_sources(served, TRACKERS[1:], []) == with_sources(SMALL, TRACKERS[1:], [])
    assert with_sources(served, [], []) == SMALL


@pytest.mark.parametrize("url", ["tracker.example", "http://", "http://h:port/announce"])
def test_an_invalid_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="Invalid URL"):
        with_sources(SMALL, [url], [])
    with pytest.raises(ValueError, match="Invalid URL"):
        with_sources(SMALL, [], [url])


@pytest.mark.parametrize(
    "data", [b"", b"<html>", b"de", b"le", b"i1e", b"d4:infodee", b"9" * 17 + b":a", SMALL[:-1], SMALL + b"e"]
)
def test_invalid_metainfo_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not metainfo"):
        with_sources(data, TRACKERS, [WEB_SEED])


@given(position=st.integers(0, 170), byte=st.integers(0, 255), end=st.integers(0, len(SMALL)))
def test_damaged_metainfo_is_parsed_or_refused(position: int, byte: int, end: int) -> None:
    damaged = bytearray(SMALL)
    damaged[position] = byte
    for data in (bytes(damaged), bytes(damaged[:end])):
        try:
            with_sources(data, TRACKERS, [WEB_SEED])
        except ValueError as error:
            assert "not metainfo" in str(error)  # parsing it is fine too
