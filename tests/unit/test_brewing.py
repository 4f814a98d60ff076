"""Brewing one layer: an id is published for the right bytes only."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import libtorrent
import pytest

import core.blobs.resume
from core.blobs.directory import DirectoryBlobs
from core.blobs.resume import RetryPolicy
from core.blobs.source import BlobSource
from core.digest import Digest
from core.errors import (
    ConnectionCut,
    DigestMismatch,
    Interrupted,
    LayerEmpty,
    MetainfoMissing,
    NotFound,
    SizeMismatch,
    StoreFailed,
)
from core.layer import Layer
from core.torrents.brewing import Brewed, brew_layer
from core.torrents.store import DirectoryStore
from tests.memory_source import MemorySource

MIB = 1024 * 1024
CONTENT = bytes(range(251)) * 20_000
DIGEST = Digest(hashlib.sha256(CONTENT).hexdigest())
LAYER = Layer(DIGEST, ("library/test",), len(CONTENT))


@dataclass
class WrongSize(MemorySource):
    """A source that reports a wrong size."""

    claimed: int = 0

    def size(self, layer: Layer) -> int:
        return self.claimed


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return DirectoryStore(tmp_path / "metainfo")


def brew(
    source: BlobSource,
    store: DirectoryStore,
    layer: Layer = LAYER,
    *,
    private: bool = True,
    connections: int = 1,
    interrupted: Callable[[], bool] = lambda: False,
) -> Brewed:
    return brew_layer(source, store, layer, private=private, connections=connections, interrupted=interrupted)


def nothing_is_kept(store: DirectoryStore, layer: Layer = LAYER) -> bool:
    try:
        store.get(layer.digest)
    except MetainfoMissing:
        return True
    return False


def test_a_brewed_layer_has_its_metainfo_in_the_store(store: DirectoryStore) -> None:
    brewed = brew(MemorySource({DIGEST: CONTENT}), store)
    torrent = libtorrent.load_torrent_buffer(store.get(DIGEST)).ti
    assert brewed.rbtorrent_id == f"rbtorrent:{torrent.info_hashes().v1}"
    assert (brewed.digest, brewed.size, brewed.pieces) == (DIGEST, len(CONTENT), torrent.num_pieces())
    assert brewed.seconds > 0
    length = torrent.piece_length()
    assert [torrent.hash_for_piece(number) for number in range(torrent.num_pieces())] == [
        hashlib.sha1(CONTENT[start : start + length]).digest() for start in range(0, len(CONTENT), length)
    ]


def test_metainfo_depends_only_on_the_bytes(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / DIGEST.hex
    blob.parent.mkdir()
    blob.write_bytes(CONTENT)
    sources = [
        MemorySource({DIGEST: CONTENT}),
        MemorySource({DIGEST: CONTENT}, most_per_read=65537),
        DirectoryBlobs(tmp_path, "/blobs/{full_digest}"),
    ]
    layers = [LAYER, Layer(DIGEST), Layer(DIGEST, ("another/scope", "library/test"))]
    results = set()
    for number, (source, layer) in enumerate(zip(sources, layers, strict=True)):
        store = DirectoryStore(tmp_path / str(number))
        results.add((brew(source, store, layer, connections=number + 1).rbtorrent_id, store.get(DIGEST)))
    assert len(results) == 1


def test_private_and_public_torrents_differ(store: DirectoryStore) -> None:
    source = MemorySource({DIGEST: CONTENT})
    assert brew(source, store).rbtorrent_id != brew(source, store, private=False).rbtorrent_id
    assert not libtorrent.load_torrent_buffer(store.get(DIGEST)).ti.priv()


@pytest.mark.parametrize("size", [1, 1000, 3 * MIB])
def test_bytes_with_another_digest_are_never_published(store: DirectoryStore, size: int) -> None:
    content = bytes(size)
    layer = Layer(DIGEST, (), size)
    with pytest.raises(DigestMismatch) as caught:
        brew(MemorySource({DIGEST: content}), store, layer)
    assert caught.value.permanent
    assert caught.value.expected == str(DIGEST)
    assert caught.value.got == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert nothing_is_kept(store)


def test_a_brewed_layer_keeps_its_metainfo_when_its_bytes_become_damaged(store: DirectoryStore) -> None:
    brew(MemorySource({DIGEST: CONTENT}), store)
    before = store.get(DIGEST)
    with pytest.raises(DigestMismatch):
        brew(MemorySource({DIGEST: CONTENT[::-1]}), store)
    assert store.get(DIGEST) == before


@pytest.mark.parametrize("difference", [-1, 1, MIB])
def test_a_layer_of_a_wrong_size_is_refused_before_it_is_read(store: DirectoryStore, difference: int) -> None:
    source = MemorySource({DIGEST: CONTENT})
    with pytest.raises(SizeMismatch) as caught:
        brew(source, store, Layer(DIGEST, (), len(CONTENT) + difference))
    assert (caught.value.expected, caught.value.got) == (len(CONTENT) + difference, len(CONTENT))
    assert source.opened == []
    assert nothing_is_kept(store)


def test_the_size_of_a_small_layer_is_checked_without_a_request(store: DirectoryStore) -> None:
    source = MemorySource({DIGEST: CONTENT})
    with pytest.raises(SizeMismatch) as caught:
        brew(source, store, Layer(DIGEST, (), 1))
    assert (caught.value.expected, caught.value.got) == (1, 2)
    assert nothing_is_kept(store)


def test_nothing_is_published_if_the_source_has_fewer_bytes_than_reported(
    store: DirectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(core.blobs.resume, "RetryPolicy", lambda: RetryPolicy(tries=2, first_pause=0.01))
    source = WrongSize({DIGEST: CONTENT}, claimed=len(CONTENT) + 1)
    with pytest.raises(ConnectionCut) as caught:
        brew(source, store, Layer(DIGEST))
    assert not caught.value.permanent
    assert nothing_is_kept(store)


def test_nothing_is_published_if_the_source_has_more_bytes_than_reported(store: DirectoryStore) -> None:
    # The first bytes have the right digest; the rest makes it another blob.
    source = WrongSize({DIGEST: CONTENT + b"more"}, claimed=len(CONTENT))
    with pytest.raises(SizeMismatch) as caught:
        brew(source, store)
    assert (caught.value.expected, caught.value.got) == (len(CONTENT), len(CONTENT) + 1)
    assert nothing_is_kept(store)


@pytest.mark.parametrize("size", [None, 0])
def test_an_empty_layer_is_refused(store: DirectoryStore, size: int | None) -> None:
    empty = Layer(Digest(hashlib.sha256(b"").hexdigest()), (), size)
    with pytest.raises(LayerEmpty) as caught:
        brew(MemorySource({empty.digest: b""}), store, empty)
    assert caught.value.permanent
    assert nothing_is_kept(store, empty)


def test_an_absent_layer_is_missing(store: DirectoryStore) -> None:
    with pytest.raises(NotFound):
        brew(MemorySource({}), store)
    assert nothing_is_kept(store)


@pytest.mark.parametrize("reads", [0, 1, 3])
def test_an_interrupted_layer_is_released_and_its_reader_closed(store: DirectoryStore, reads: int) -> None:
    stop = threading.Event()

    def stop_in_mid_layer(offset: int) -> None:
        if len(offsets) == reads:
            stop.set()
        offsets.append(offset)

    offsets: list[int] = []
    source = MemorySource({DIGEST: CONTENT}, before_read=stop_in_mid_layer)
    with pytest.raises(Interrupted):
        brew(source, store, interrupted=stop.is_set)
    assert len(offsets) == reads + 1
    assert source.open_readers == set()
    assert nothing_is_kept(store)


def test_a_failing_store_is_retried_later(tmp_path: Path) -> None:
    (tmp_path / "metainfo").write_text("not a directory")
    source = MemorySource({DIGEST: CONTENT})
    with pytest.raises(StoreFailed) as caught:
        brew(source, DirectoryStore(tmp_path / "metainfo"))
    assert not caught.value.permanent
    assert source.open_readers == set()
