"""Several nodes share a layer: the origin sends it about once, the rest comes from peers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path

import libtorrent
import pytest

from core.digest import Digest
from core.errors import CacheFailed, ConnectionCut, Unavailable
from core.swarm.bitmap import Bitmap
from core.swarm.messages import SwarmRequest
from node.cache import Cache
from node.cache_files import CachedLayer
from node.origin import PulledLayer
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
from tests.servers.http_server import start_http_server
from tests.servers.process import free_port
from tests.servers.swarm_service import SwarmService, start_swarm_service
from tests.servers.waiting import comes_true

SIZE = 8 * 1024 * 1024 + 12_345


@pytest.fixture(scope="module")
def data() -> bytes:
    return make_layer(SIZE)[0]


@pytest.fixture(scope="module")
def layer() -> PulledLayer:
    return make_layer(SIZE)[1]


@pytest.fixture
def service(data: bytes) -> Iterator[SwarmService]:
    with start_swarm_service(data, PIECE) as started:
        yield started


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    with ExitStack() as stack:
        numbers = iter(range(100))

        def start_one(**options: object) -> Node:
            folder = tmp_path / f"node{next(numbers)}"
            return stack.enter_context(start_node(folder, **options))  # type: ignore[arg-type]

        yield start_one


def torrent(service: SwarmService) -> bytes:
    return make_torrent(service.layer, [service.web_seed])


def handshake(node: Node, origin: BytesOrigin) -> bytes:
    """Return the node's answer to a peer that connects for the layer, b"" if it hangs up."""
    info_hash = libtorrent.load_torrent_buffer(origin.metainfo).ti.info_hashes().v1.to_bytes()
    with socket.create_connection(("127.0.0.1", node.session.port), 30) as peer:
        try:
            peer.sendall(b"\x13BitTorrent protocol" + bytes(8) + info_hash + b"-XX0000-" + bytes(12))
            return peer.recv(68)
        except ConnectionError:
            return b""


def test_four_nodes_fetch_each_chunk_from_the_origin_once(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    nodes = [start() for _ in range(4)]
    origins = [BytesOrigin(data, torrent(service)) for _ in nodes]
    assert all(got == data for got in pull_together(nodes, layer, origins))
    assert sum(origin.sent for origin in origins) == 0
    assert service.sent <= 1.1 * SIZE
    received = [node.downloads.totals().origins for node in nodes]
    assert sum(one["web_seed"] for one in received) == service.sent
    assert sum(one["peers"] for one in received) >= 2.9 * SIZE
    assert comes_true(lambda: len(service.completed()) == 4)
    assert [status.state for status in nodes[0].downloads.status()] == ["seeding"]


def test_a_second_node_gets_everything_from_the_first(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    first, second = start(), start()
    assert pull(first, layer, BytesOrigin(data, torrent(service))) == data
    assert comes_true(service.completed)
    before = service.sent
    assert pull(second, layer, BytesOrigin(data, torrent(service))) == data
    assert service.sent == before
    assert second.downloads.totals().origins["peers"] == SIZE
    assert comes_true(lambda: first.downloads.totals().uploaded >= SIZE)


def test_bytes_are_read_in_any_order(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    with start().downloads.open(layer, BytesOrigin(data, torrent(service))) as reader:
        for offset in (SIZE - 5, 5_000_000, 0, 3 * PIECE - 1):
            got = reader.read(offset, 10, 60)
            assert got
            assert got == data[offset : offset + len(got)]
        assert reader.read(SIZE, 10, 60) == b""


@pytest.mark.parametrize("status", [503, 404, 403, 500])
def test_a_web_seed_that_fails_is_replaced_by_the_registry(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer, status: int
) -> None:
    service.web_seed_status = status
    node, origin = start(), BytesOrigin(data, torrent(service))
    assert pull(node, layer, origin) == data
    assert node.downloads.totals().origins["registry"] == SIZE
    assert node.downloads.totals().fallbacks["web_seed"] >= 1
    assert service.reads <= 16


def test_wrong_bytes_from_the_web_seed_are_discarded(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    service.wrong_bytes = True
    node = start()
    assert pull(node, layer, BytesOrigin(data, torrent(service))) == data
    assert node.downloads.totals().origins == {"peers": 0, "web_seed": 0, "registry": SIZE, "cache": 0}
    assert service.reads <= 16  # it is not used again


def test_a_web_seed_that_drips_is_left_for_the_registry(
    service: SwarmService,
    start: Callable[..., Node],
    data: bytes,
    layer: PulledLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.fetch.SLOW_SECONDS", 0.3)
    service.drip = 0.1
    node, origin = start(), BytesOrigin(data, torrent(service))
    with node.downloads.open(layer, origin):
        # No reader waits, whom the registry would help after a while.
        pass
    assert wait_for_end(node, layer) is None
    totals = node.downloads.totals()
    assert totals.origins["registry"] == SIZE
    assert totals.fallbacks["web_seed"] >= 1
    assert "stalled" not in totals.fallbacks


def test_a_web_seed_that_is_down_is_replaced_by_the_next(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    down = f"http://127.0.0.1:{free_port()}/layer"
    node, origin = start(), BytesOrigin(data, make_torrent(data, [down, service.web_seed]))
    assert pull(node, layer, origin) == data
    assert node.downloads.totals().fallbacks["web_seed"] >= 1
    assert origin.sent == 0
    assert service.sent >= SIZE


def test_a_tracker_that_is_down_does_not_matter(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    tracker = f"http://127.0.0.1:{free_port()}/announce"
    torrent = make_torrent(data, [service.web_seed], tracker=tracker)
    nodes, origins = [start(), start()], [BytesOrigin(data, torrent) for _ in range(2)]
    assert pull_together(nodes, layer, origins) == [data, data]
    assert sum(origin.sent for origin in origins) == 0
    assert service.sent <= 1.5 * SIZE


@pytest.mark.parametrize("evicted", [True, False])
def test_start_eviction_and_exit_are_announced_to_a_tracker(
    service: SwarmService, tmp_path: Path, data: bytes, layer: PulledLayer, evicted: bool
) -> None:
    with start_http_server() as tracker:
        answer = b"d8:intervali1800e5:peers0:e"
        tracker.on("/announce", lambda request, connection: connection.reply(200, answer))

        def events() -> list[str]:
            return [request.query.get("event", [""])[0] for request in tracker.requests]

        torrent = make_torrent(data, [service.web_seed], tracker=f"{tracker.url}/announce")
        with start_node(tmp_path) as node:
            assert pull(node, layer, BytesOrigin(data, torrent)) == data
            assert comes_true(lambda: "started" in events())
            if evicted:
                assert comes_true(lambda: node.downloads.drop(layer.digest))
                assert comes_true(lambda: "stopped" in events())
        assert comes_true(lambda: "stopped" in events())


def test_a_reader_gets_the_beginning_before_the_rest_has_arrived(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    # containerd aborts a pull that makes no progress for five minutes.
    beginning_read = threading.Event()
    service.on_read = lambda offset, length: offset > SIZE // 2 and beginning_read.wait(120) and None
    nodes = [start() for _ in range(3)]
    origins = [BytesOrigin(data, torrent(service)) for _ in nodes]
    with ExitStack() as stack:
        stack.callback(beginning_read.set)
        others = [
            stack.enter_context(in_thread(partial(pull, node, layer, origin)))
            for node, origin in zip(nodes[1:], origins[1:], strict=True)
        ]
        reader = stack.enter_context(nodes[0].downloads.open(layer, origins[0]))
        offset = 0
        while offset < SIZE // 3:
            part = reader.read(offset, 100_000, 60)
            assert part == data[offset : offset + len(part)]
            offset += len(part)
        beginning_read.set()
        assert read_all(reader) == data
    assert others == [[data], [data]]
    assert sum(origin.sent for origin in origins) == 0


@pytest.mark.parametrize("status", [503, 404, 403])
def test_without_the_swarm_service_nodes_still_finish(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer, status: int
) -> None:
    service.swarm_status = status
    node = start()
    assert pull(node, layer, BytesOrigin(data, torrent(service))) == data
    assert node.downloads.totals().fallbacks["swarm_service"] >= 1


def test_a_service_restarted_in_the_middle_costs_little(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    def forget(offset: int, length: int) -> None:
        if service.reads == 10:
            service.forget()

    service.on_read = forget
    nodes = [start(), start()]
    assert all(got == data for got in pull_together(nodes, layer, [BytesOrigin(data, torrent(service))] * 2))
    assert service.sent <= 1.6 * SIZE


def test_the_chunks_of_a_killed_node_are_leased_again(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    service.lease_seconds = 1.0
    count = -(-SIZE // (4 * PIECE))
    gone = SwarmRequest(node="0" * 32, port=1, chunks=count, held=Bitmap.of(count, []).to_base64(), want=16)
    assert len(service.join("127.0.0.1", gone).leases) == 16
    node, origin = start(), BytesOrigin(data, torrent(service))
    assert pull(node, layer, origin) == data
    assert origin.sent == 0


def test_pieces_of_a_killed_node_are_used_after_its_restart(
    service: SwarmService, tmp_path: Path, data: bytes, layer: PulledLayer
) -> None:
    gate, gated, had = threading.Event(), threading.Event(), 0

    def hold_back(offset: int, length: int) -> None:
        if service.sent > SIZE // 4:
            gated.set()
            gate.wait(120)

    service.on_read = hold_back
    service.lease_seconds = 1.0  # those of the killed node end
    with (
        start_node(tmp_path) as node,
        node.downloads.open(layer, BytesOrigin(data, torrent(service))) as reader,
    ):

        def all_received_is_complete() -> bool:
            nonlocal had
            had = node.downloads.totals().origins["web_seed"]
            return had > SIZE // 4 and node.downloads.status()[0].done >= had

        assert gated.wait(60)
        assert comes_true(all_received_is_complete)
        reader.close()
        gate.set()
        node.downloads.close()
    assert comes_true(lambda: service.ended_reads == service.reads)
    service.on_read = lambda offset, length: None
    before = service.sent
    with start_node(tmp_path) as node:
        assert node.cache.open(layer.digest) is None
        assert pull(node, layer, BytesOrigin(data, torrent(service))) == data
    assert service.sent - before <= SIZE - had + PIECE


def test_a_restarted_node_seeds_what_it_has(
    service: SwarmService, tmp_path: Path, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    folder = tmp_path / "restarted"
    with start_node(folder) as node:
        assert pull(node, layer, BytesOrigin(data, torrent(service))) == data
    assert service.completed() == set()
    with start_node(folder) as node:
        assert comes_true(lambda: [one for one in service.announced if one.layers])
        [seed] = [one for one in service.announced if one.layers][-1].layers
        assert seed.hex == layer.digest.hex
        assert comes_true(lambda: [status.state for status in node.downloads.status()] == ["seeding"])
        other = start()
        with other.downloads.open(layer, BytesOrigin(data, torrent(service))) as reader:
            assert read_all(reader) == data


def test_a_pull_renews_the_refused_capability_of_a_cached_layer(
    service: SwarmService, tmp_path: Path, data: bytes, layer: PulledLayer, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "away for long"
    with start_node(folder) as node:
        assert pull(node, layer, BytesOrigin(data, torrent(service))) == data
    service.refuses_seeds = True
    with start_node(folder) as node:
        assert comes_true(lambda: "cached layers not announced number=1" in caplog.text)
        assert service.completed() == set()
        origin = BytesOrigin(b"", torrent(service))
        for _ in range(2):
            with node.downloads.open(layer, origin) as reader:
                assert read_all(reader) == data
        assert comes_true(service.completed)
        assert origin.requested == 1


def test_an_evicted_layer_leaves_the_swarm(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    node = start()
    assert pull(node, layer, BytesOrigin(data, torrent(service))) == data
    assert comes_true(service.completed)
    assert comes_true(lambda: node.downloads.drop(layer.digest))
    assert comes_true(lambda: not service.members)
    assert node.downloads.status() == []


def test_an_address_outside_the_configured_networks_is_not_a_peer(
    service: SwarmService,
    start: Callable[..., Node],
    data: bytes,
    layer: PulledLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.fallback.STALLED_SECONDS", 0.5)
    first, second = start(), start(peers=[IPv4Network("10.0.0.0/8")])
    assert pull(first, layer, BytesOrigin(data, torrent(service))) == data
    origin = BytesOrigin(data, torrent(service))
    assert pull(second, layer, origin) == data
    assert second.downloads.totals().origins["peers"] == 0
    # Nor does it answer one that connects.
    assert handshake(first, origin)[:20] == b"\x13BitTorrent protocol"
    assert handshake(second, origin) == b""


def test_a_stalled_reader_falls_back_to_the_registry(
    service: SwarmService,
    start: Callable[..., Node],
    data: bytes,
    layer: PulledLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.fallback.STALLED_SECONDS", 0.5)
    gate = threading.Event()
    service.on_read = lambda offset, length: gate.wait(60) and None
    node, origin = start(), BytesOrigin(data, torrent(service))
    try:
        assert pull(node, layer, origin) == data
    finally:
        gate.set()
    totals = node.downloads.totals()
    assert totals.fallbacks["stalled"] >= 1
    assert totals.origins["registry"] >= SIZE


def test_a_reader_gets_the_registrys_error_as_a_last_resort(
    service: SwarmService,
    start: Callable[..., Node],
    data: bytes,
    layer: PulledLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.fallback.STALLED_SECONDS", 0.5)
    service.web_seed_status = service.swarm_status = 503
    origin = BytesOrigin(data, torrent(service), error=Unavailable("registry", "status 503"))
    with start().downloads.open(layer, origin) as reader, pytest.raises(Unavailable):
        reader.read(0, 10, 60)


def test_a_download_that_gets_nothing_and_has_no_reader_ends(
    service: SwarmService, start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    service.web_seed_status = service.swarm_status = 503
    origin = BytesOrigin(data, torrent(service), error=Unavailable("registry", "status 503"))
    node = start(time_limit=0.5)
    with node.downloads.open(layer, origin):
        pass
    assert "timed out" in (wait_for_end(node, layer) or "")


def test_a_torrent_of_other_bytes_is_used_once(
    start: Callable[..., Node], data: bytes, layer: PulledLayer
) -> None:
    other = bytes(SIZE)
    with start_swarm_service(other, PIECE) as service:
        origin = BytesOrigin(data, make_torrent(other, [service.web_seed], name=layer.digest.hex))
        node = start()
        with node.downloads.open(layer, origin):
            assert str(layer.digest) in (wait_for_end(node, layer) or "")
        assert pull(node, layer, origin) == data
    assert node.downloads.totals().origins["registry"] == SIZE


def test_a_layer_that_could_not_be_kept_is_shared_by_the_next_pull(
    service: SwarmService,
    start: Callable[..., Node],
    data: bytes,
    layer: PulledLayer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    commit, failures = Cache.commit, iter([CacheFailed("cache", "the disk is full")])

    def fail_once(cache: Cache, digest: Digest) -> CachedLayer:
        for failure in failures:
            raise failure
        return commit(cache, digest)

    monkeypatch.setattr(Cache, "commit", fail_once)
    monkeypatch.setattr("node.downloads._WITHOUT_CACHE_SECONDS", 0)
    node, origin = start(), BytesOrigin(data, torrent(service))
    with node.downloads.open(layer, origin):
        assert "full" in (wait_for_end(node, layer) or "")
    before = service.sent
    assert pull(node, layer, origin) == data
    assert comes_true(lambda: [status.state for status in node.downloads.status()] == ["seeding"])
    assert (service.sent, origin.sent) == (before, 0)


def test_a_swarm_that_appears_during_the_download_is_joined(
    service: SwarmService, start: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.registry_download.LARGE_LAYER", 1)
    monkeypatch.setattr("node.registry_download.TORRENT_RETRY_SECONDS", 0.1)
    gate = threading.Event()

    class Slow(BytesBody):
        def readinto(self, buffer: memoryview, /) -> int:
            if len(self.data) <= SIZE // 2:
                gate.wait(60)
                raise ConnectionCut("registry", 0, "cut")
            return super().readinto(buffer)

        def close(self) -> None:
            gate.set()

    data, layer = service.layer, make_layer(SIZE)[1]
    node, origin = start(), BytesOrigin(data, body=Slow)
    with node.downloads.open(layer, origin) as reader:
        assert comes_true(lambda: node.downloads.status()[0].done >= SIZE // 2 - PIECE)
        origin.metainfo = torrent(service)
        assert read_all(reader) == data
    assert wait_for_end(node, layer) is None
    received = node.downloads.totals().origins
    assert received["registry"] <= SIZE * 0.6
    assert received["web_seed"] >= SIZE * 0.4
