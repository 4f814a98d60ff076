"""Nodes under faults: a corrupt peer, a full disk, peers that only download, a silent swarm, a large cache."""

from __future__ import annotations

import logging
import os
import random
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest.mock import Mock

import libtorrent
import psutil
import pytest

from core.errors import CacheFailed
from core.swarm.bitmap import Bitmap
from core.swarm.messages import SwarmRequest
from node.cache import Cache
from node.fallback import pause_before_registry
from node.metainfo import parse_metainfo
from node.pieces import Pieces
from node.seeding import Seeding
from node.session import Session, Torrent
from node.swarm_download import SwarmDownload
from tests.nodes import (
    PIECE,
    BytesBody,
    BytesOrigin,
    Node,
    in_thread,
    make_layer,
    make_torrent,
    pull,
    pull_together,
    read_all,
    start_node,
    wait_for_end,
)
from tests.servers.libtorrent_client import done, start_libtorrent
from tests.servers.swarm_service import CAPABILITY, SwarmService, start_swarm_service
from tests.servers.waiting import comes_true

SIZE = 4 * 1024 * 1024 + 321
CHUNKS = -(-SIZE // (4 * PIECE))
DATA, LAYER = make_layer(SIZE)


@pytest.fixture
def service() -> Iterator[SwarmService]:
    with start_swarm_service(DATA, PIECE) as started:
        yield started


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    with ExitStack() as stack:
        numbers = iter(range(100))

        def start_one(**options: object) -> Node:
            folder = tmp_path / f"node{next(numbers)}"
            return stack.enter_context(start_node(folder, **options))  # type: ignore[arg-type]

        yield start_one


def origin(service: SwarmService) -> BytesOrigin:
    return BytesOrigin(DATA, make_torrent(DATA, [service.web_seed]))


def announce(service: SwarmService, port: int, *, complete: bool) -> None:
    """Announce a peer that makes no swarm calls itself."""
    held = Bitmap.full(CHUNKS) if complete else Bitmap.of(CHUNKS, [])
    request = SwarmRequest(
        node="0" * 32, port=port, chunks=CHUNKS, held=held.to_base64(), complete=complete, want=0
    )
    service.join("127.0.0.1", request)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    if os.geteuid():
        pytest.skip("mounting a file system needs root")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no permission to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_wrong_bytes_from_a_peer_are_discarded(
    service: SwarmService, start: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = bytearray(DATA)
    for piece in range(0, SIZE, 2 * PIECE):
        wrong[piece] ^= 1
    with start_libtorrent(tmp_path / "peer") as peer:
        (peer.folder / LAYER.digest.hex).write_bytes(wrong)
        parameters = libtorrent.load_torrent_buffer(make_torrent(DATA))
        parameters.save_path = str(peer.folder)
        flags = libtorrent.torrent_flags
        parameters.flags = (parameters.flags | flags.seed_mode) & ~(flags.paused | flags.auto_managed)
        peer.session.apply_settings({"disable_hash_checks": True})
        peer.session.add_torrent(parameters)
        announce(service, peer.session.listen_port(), complete=True)
        # A reader falls back to the registry as soon as it knows of wrong bytes.
        # The service still names the peer when libtorrent has banned it.
        monkeypatch.setattr("node.swarm_download.IDLE_SECONDS", 2.0)
        node = start()
        assert pull(node, LAYER, origin(service)) == DATA
    with node.downloads.open(LAYER, BytesOrigin(b"")) as reader:
        assert read_all(reader) == DATA


def test_a_download_without_readers_completes_despite_a_seed_that_sends_nothing(
    service: SwarmService, start: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.swarm_download.IDLE_SECONDS", 0.5)
    with start_libtorrent(tmp_path / "peer") as peer:
        peer.session.apply_settings({"unchoke_slots_limit": 0})
        for number in (0, 2):
            limits = peer.session.get_peer_class(number)
            limits["ignore_unchoke_slots"] = False
            peer.session.set_peer_class(number, limits)
        (peer.folder / LAYER.digest.hex).write_bytes(DATA)
        handle = peer.add(make_torrent(DATA))
        assert comes_true(lambda: done(handle))
        announce(service, peer.session.listen_port(), complete=True)
        node = start()
        with node.downloads.open(LAYER, origin(service)):
            pass
        assert wait_for_end(node, LAYER) is None
    assert node.cache.open(LAYER.digest) is not None
    assert service.sent > SIZE // 2


@pytest.mark.parametrize("by", ["swarm", "registry"])
def test_a_full_disk_ends_the_download_but_not_the_pull(
    service: SwarmService, tmp_path: Path, by: str
) -> None:
    with small_disk(tmp_path / "disk", SIZE + (1 << 20)) as disk, ExitStack() as stack:
        node = stack.enter_context(start_node(disk / "cache"))
        filled = threading.Event()

        def fill(*_: int) -> None:
            if (by == "registry" or service.reads > 8) and not filled.is_set():
                filled.set()
                with (disk / "filler").open("wb", buffering=0) as filler:
                    try:
                        while filler.write(bytes(1 << 16)):
                            pass
                    except OSError:
                        return

        class FillingBody(BytesBody):
            def readinto(self, buffer: memoryview, /) -> int:
                if len(self.data) < SIZE // 2:
                    fill()
                return super().readinto(buffer)

        service.on_read = fill
        registry = origin(service) if by == "swarm" else BytesOrigin(DATA, body=FillingBody)
        with node.downloads.open(LAYER, registry) as reader:
            assert read_all(reader) == DATA
        assert node.cache.open(LAYER.digest) is None
        assert node.downloads.totals().fallbacks["disk_error"] == 1
        assert filled.is_set()
        [failed] = node.downloads.status()
        assert failed.state == "failed"
        assert "space" in str(failed.error)


def test_a_read_only_directory_is_reported_at_startup(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(CacheFailed, match="read-only"):
            Cache(disk / "cache", 1 << 20, 0)


def test_a_peer_that_never_uploads_delays_no_other(
    service: SwarmService, start: Callable[..., Node], tmp_path: Path
) -> None:
    with start_libtorrent(tmp_path / "peer") as taker:
        taker.session.apply_settings({"unchoke_slots_limit": 0})
        handle = taker.add(make_torrent(DATA))
        announce(service, taker.session.listen_port(), complete=False)
        nodes = [start(), start()]
        origins = [origin(service) for _ in nodes]
        assert pull_together(nodes, LAYER, origins) == [DATA, DATA]
        assert sum(one.sent for one in origins) == 0
        assert comes_true(lambda: handle.status().is_seeding)


def test_nodes_that_lose_the_service_together_do_not_each_read_the_layer(
    service: SwarmService, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    others: list[int] = []

    def note(others_of_one: int, generator: random.Random) -> float:
        others.append(others_of_one)
        return pause_before_registry(others_of_one, generator)

    monkeypatch.setattr("node.without_leases.pause_before_registry", note)

    def lose(offset: int, length: int) -> None:
        # A node without peers has to read everything.
        assert comes_true(lambda: list(service.named.values()) == [3] * 4)
        service.swarm_status = service.web_seed_status = 503

    service.on_read = lose
    nodes = [start() for _ in range(4)]
    origins = [origin(service) for _ in nodes]
    assert pull_together(nodes, LAYER, origins) == [DATA] * 4
    assert sum(one.sent for one in origins) <= 2.5 * SIZE
    # Each pause grew with the whole swarm.
    assert set(others) == {3}


def test_a_thousand_layers_are_served_at_once_and_seeded_soon(
    service: SwarmService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.seeding._START_PAUSE", 0.001)
    layers = [make_layer(2000 + number, number) for number in range(1000)]
    cache = Cache(tmp_path, 1 << 30, 0)
    for data, layer in layers:
        cache.reserve(layer.digest, layer.size).write_bytes(data)
        cache.commit(layer.digest).close()
        cache.save_metadata(layer.digest, make_torrent(data, [service.web_seed]))
    cache.close()
    with start_node(tmp_path) as node:
        data, layer = layers[500]
        with node.downloads.open(layer, BytesOrigin(b"")) as reader:
            assert read_all(reader) == data
        assert comes_true(lambda: len(node.downloads.status()) == 1000, 120)
        assert comes_true(lambda: service.announced, 120)
        [announced] = service.announced
        assert len(announced.layers) == 100


def test_limits_are_set_for_local_and_public_peers() -> None:
    session = Session("127.0.0.1:0", upload_limit=1000, download_limit=2000)
    try:
        for peer_class in (0, 2):
            limits = session._session.get_peer_class(peer_class)
            assert (limits["upload_limit"], limits["download_limit"]) == (1000, 2000)
    finally:
        session.close()


def test_a_prioritized_piece_has_libtorrents_highest_priority(tmp_path: Path) -> None:
    session = Session("127.0.0.1:0")
    try:
        torrent = session.add(parse_metainfo(make_torrent(DATA), LAYER.digest), tmp_path, Mock())
        torrent.prioritize(3)
        assert torrent.handle.get_piece_priorities()[2:5] == [4, 7, 4]
    finally:
        session.close()


class DroppedPieces:
    """Makes every torrent but the last of `generations` ignore added pieces."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, piece: int, generations: int) -> None:
        self.torrents: list[Torrent] = []
        self.dropped = 0
        add_piece = Torrent.add_piece

        def drop(torrent: Torrent, index: int, data: bytes) -> None:
            if torrent not in self.torrents:
                self.torrents.append(torrent)
            if index == piece and len(self.torrents) < generations:
                self.dropped += 1
                return
            add_piece(torrent, index, data)

        monkeypatch.setattr(Torrent, "add_piece", drop)


def test_a_piece_that_libtorrent_ignores_stops_neither_readers_nor_the_download(
    service: SwarmService, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped = DroppedPieces(monkeypatch, piece=0, generations=2)
    restarted = threading.Event()
    restart = SwarmDownload._restart

    def restart_and_count(download: SwarmDownload) -> None:
        monkeypatch.setattr("node.swarm_download.STUCK_SECONDS", float("inf"))
        restarted.set()
        restart(download)

    monkeypatch.setattr("node.fallback.STALLED_SECONDS", 0.5)
    monkeypatch.setattr("node.swarm_download.STUCK_SECONDS", float("inf"))
    monkeypatch.setattr(SwarmDownload, "_restart", restart_and_count)
    node = start()
    with node.downloads.open(LAYER, origin(service)) as reader:
        assert reader.read(0, PIECE, 60) == DATA[:PIECE]
        assert not restarted.is_set()
        monkeypatch.setattr("node.swarm_download.STUCK_SECONDS", 0.5)
        assert read_all(reader) == DATA
    assert wait_for_end(node, LAYER) is None
    assert dropped.dropped > 0
    assert restarted.is_set()
    assert node.downloads.totals().fallbacks["restarted"] == 1


def test_a_listener_gets_no_events_after_its_torrent_was_removed(tmp_path: Path) -> None:
    added, removing, removed = threading.Event(), threading.Event(), threading.Event()
    has_waited: list[bool] = []
    session = Session("127.0.0.1:0")

    class Listener(Mock):
        def on_checked(self, pieces: Sequence[bool]) -> None:
            threading.Thread(target=remove).start()
            # As long as this runs, `remove` has to wait.
            has_waited.append(removing.wait(60) and not removed.wait(0.3))

    def remove() -> None:
        added.wait(60)
        removing.set()
        session.remove(torrent)
        removed.set()

    torrent = session.add(parse_metainfo(make_torrent(DATA), LAYER.digest), tmp_path, Listener())
    added.set()
    try:
        assert removed.wait(120)
        assert comes_true(lambda: has_waited)
        assert has_waited == [True]
    finally:
        session.close()


def test_a_reader_is_served_while_a_large_file_is_checked(
    service: SwarmService, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, on_checked = threading.Event(), Pieces.on_checked

    def check_slowly(pieces: Pieces, present: Sequence[bool]) -> None:
        checked.wait(60)
        on_checked(pieces, present)

    monkeypatch.setattr(Pieces, "on_checked", check_slowly)
    monkeypatch.setattr("node.fallback.STALLED_SECONDS", 0.1)
    node = start()
    try:
        with node.downloads.open(LAYER, origin(service)) as reader:
            assert reader.read(0, PIECE, 120) == DATA[:PIECE]
            assert node.downloads.status()[0].state == "checking"
            checked.set()
            assert read_all(reader) == DATA
    finally:
        checked.set()
    assert wait_for_end(node, LAYER) is None


def test_an_outage_of_the_service_is_logged_once_for_all_layers_and_its_end(
    service: SwarmService, start: Callable[..., Node], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    service.swarm_status = service.web_seed_status = 503
    node = start()
    for seed in (2, 3):
        data, layer = make_layer(300_000, seed)
        assert pull(node, layer, BytesOrigin(data, make_torrent(data, [service.web_seed]))) == data
    service.swarm_status = service.web_seed_status = 0
    assert pull(node, LAYER, origin(service)) == DATA
    lines = [record.getMessage() for record in caplog.records]
    server = service.url.removeprefix("http://")
    for what in ("swarm calls", f"web seed of {server}"):
        assert [line.split(what)[1].split()[0] for line in lines if what in line] == ["failed", "works"]
    assert CAPABILITY not in caplog.text


@pytest.mark.parametrize("status", [403, 500])
def test_a_swarm_call_that_fails_for_one_layer_is_no_outage_of_the_service(
    service: SwarmService, start: Callable[..., Node], caplog: pytest.LogCaptureFixture, status: int
) -> None:
    service.swarm_status = service.web_seed_status = status
    assert pull(start(), LAYER, origin(service)) == DATA
    assert f"swarm call failed digest={LAYER.digest} reason={service.url}/v0/swarm: " in caplog.text
    assert "swarm calls failed" not in caplog.text
    assert CAPABILITY not in caplog.text


def test_a_damaged_layer_is_neither_seeded_nor_served_and_is_repaired(
    service: SwarmService, start: Callable[..., Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "damaged"
    with start_node(folder) as node:
        assert pull(node, LAYER, origin(service)) == DATA
    file = folder / "layers" / LAYER.digest.hex
    before = file.stat()
    with file.open("r+b") as stream:
        stream.write(bytes(10))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with start_node(folder) as node:
        assert comes_true(lambda: [status.state for status in node.downloads.status()] == ["seeding"])
        announce(service, node.session.port, complete=True)
        other = start()
        with (
            # While an engine reads it.
            node.downloads.open(LAYER, BytesOrigin(b"")),
            in_thread(lambda: pull(other, LAYER, origin(service))) as pulled,
        ):
            assert comes_true(lambda: node.cache.entries() == [])
            # The service still says that this node has every chunk.
            monkeypatch.setattr("node.fallback.STALLED_SECONDS", 0.5)
        assert pulled == [DATA]
        assert pull(node, LAYER, origin(service)) == DATA
        received = node.downloads.totals().origins
        assert received["peers"] + received["web_seed"] < SIZE // 2


def test_a_late_failure_of_an_old_torrent_does_not_concern_the_new_one(
    service: SwarmService, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, failures = start(), []
    drop_damaged = Seeding._drop_damaged
    monkeypatch.setattr(Seeding, "_drop_damaged", lambda *failure: failures.append(failure))
    assert pull(node, LAYER, origin(service)) == DATA
    assert comes_true(lambda: [status.state for status in node.downloads.status()] == ["seeding"])
    [listener] = node.session._listeners.values()
    listener.on_hash_failed(0)
    assert comes_true(lambda: failures)
    assert comes_true(lambda: node.downloads.drop(LAYER.digest))
    assert pull(node, LAYER, origin(service)) == DATA
    assert comes_true(lambda: [status.state for status in node.downloads.status()] == ["seeding"])
    drop_damaged(*failures[0])
    assert [entry.digest for entry in node.cache.entries()] == [LAYER.digest]
    assert [status.state for status in node.downloads.status()] == ["seeding"]


def test_pulls_from_the_swarm_leak_neither_threads_nor_descriptors(
    service: SwarmService, start: Callable[..., Node]
) -> None:
    seed, node = start(), start()
    assert pull(seed, LAYER, origin(service)) == DATA

    def pull_and_drop() -> None:
        with node.downloads.open(LAYER, origin(service)) as reader:
            assert read_all(reader) == DATA
        assert comes_true(lambda: node.downloads.drop(LAYER.digest))

    pull_and_drop()
    descriptors, threads = psutil.Process().num_fds(), threading.active_count()
    for _ in range(20):
        pull_and_drop()
    assert node.downloads.status() == []
    assert node.session._listeners == {}
    # Fewer than one for each pull: connections that are idle may be among them.
    assert comes_true(lambda: psutil.Process().num_fds() < descriptors + 15)
    assert comes_true(lambda: threading.active_count() < threads + 15)
