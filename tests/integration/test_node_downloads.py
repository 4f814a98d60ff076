"""Downloads without a swarm: layers are streamed from the registry to readers and into the cache."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import ConnectionCut, Interrupted, Refused, TimedOut, Unavailable
from node.cache_files import CachedLayer
from node.download import Download
from node.http_download import BLOCK, MAX_STREAMS
from node.origin import PulledLayer
from tests.nodes import (
    BytesBody,
    BytesOrigin,
    Node,
    in_thread,
    make_layer,
    make_torrent,
    pull,
    read_all,
    start_node,
    wait_for_end,
)
from tests.servers.waiting import comes_true


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with start_node(tmp_path / "node") as started:
        yield started


def cached(node: Node, layer: PulledLayer) -> bool:
    return layer.digest in {entry.digest for entry in node.cache.entries()}


class GatedBody(BytesBody):
    """Returns the first `free` bytes, and the rest once `gate` is set."""

    gate: threading.Event
    free = 0

    def readinto(self, buffer: memoryview, /) -> int:
        if self.free <= 0:
            self.gate.wait(60)
        count = super().readinto(buffer[: self.free] if self.free > 0 else buffer)
        self.free -= count
        return count


def gated(free: int = 0) -> type[GatedBody]:
    return type("Gated", (GatedBody,), {"gate": threading.Event(), "free": free})


def test_a_layer_without_a_torrent_is_streamed_and_cached(node: Node) -> None:
    data, layer = make_layer(300_000)
    origin = BytesOrigin(data)
    with node.downloads.open(layer, origin) as reader:
        assert reader.size == len(data)
        assert read_all(reader) == data
    assert wait_for_end(node, layer) is None
    assert cached(node, layer)
    assert origin.opened == [(0, len(data))]
    with node.downloads.open(layer, BytesOrigin(b"")) as reader:
        assert read_all(reader) == data
    totals = node.downloads.totals()
    assert totals.origins == {"peers": 0, "web_seed": 0, "registry": len(data), "cache": len(data)}
    assert totals.fallbacks == {"no_torrent": 1}


def test_a_small_layer_is_not_requested_from_the_swarm(tmp_path: Path) -> None:
    data, layer = make_layer(10_000)
    origin = BytesOrigin(data, make_torrent(data))
    with start_node(tmp_path, min_size=10_001) as node, node.downloads.open(layer, origin) as reader:
        assert read_all(reader) == data
    assert origin.requested == 0


def test_an_empty_layer_is_cached(node: Node) -> None:
    data, layer = make_layer(0)
    with node.downloads.open(layer, BytesOrigin(data)) as reader:
        assert reader.read(0, 10, 5) == b""
    assert comes_true(lambda: cached(node, layer))


def test_readers_share_one_download_and_see_bytes_before_its_end(node: Node) -> None:
    data, layer = make_layer(4 * BLOCK)
    body = gated(BLOCK)
    origin = BytesOrigin(data, body=body)
    with node.downloads.open(layer, origin) as first, node.downloads.open(layer, origin) as second:
        assert first.read(0, 10, 30) == second.read(0, 10, 30) == data[:10]
        [status] = node.downloads.status()
        assert (status.state, status.done, status.readers) == ("http", BLOCK, 2)
        body.gate.set()
        assert read_all(first) == read_all(second) == data
    assert len(origin.opened) == 1


def test_a_reader_that_leaves_does_not_end_the_download(node: Node) -> None:
    data, layer = make_layer(4 * BLOCK)
    body = gated(BLOCK)
    with node.downloads.open(layer, BytesOrigin(data, body=body)) as reader:
        reader.read(0, 10, 30)
    body.gate.set()
    assert comes_true(lambda: cached(node, layer))


def test_a_reader_far_ahead_gets_its_own_request(node: Node) -> None:
    data, layer = make_layer(100 * BLOCK)
    body = gated()
    origin = BytesOrigin(data, body=lambda view: body(view) if len(view) == len(data) else BytesBody(view))
    with node.downloads.open(layer, origin) as behind, node.downloads.open(layer, origin) as ahead:
        assert comes_true(lambda: origin.opened)
        start = 80 * BLOCK + 5
        assert ahead.read(start, 10, 30) == data[start : start + 10]
        assert origin.opened[1] == (80 * BLOCK, 20 * BLOCK)
        body.gate.set()
        assert read_all(behind) == data
    assert comes_true(lambda: cached(node, layer))


def test_a_registry_that_refuses_a_second_request_does_not_end_the_download(node: Node) -> None:
    data, layer = make_layer(100 * BLOCK)
    body = gated()

    class Limited(BytesOrigin):
        def open(self, offset: int, length: int) -> BytesBody:
            self.error = Unavailable("registry", "status 429") if self.opened else None
            return super().open(offset, length)

    origin = Limited(data, body=body)
    with node.downloads.open(layer, origin) as behind, node.downloads.open(layer, origin) as ahead:
        with pytest.raises(TimedOut):
            ahead.read(0, 10, 0.01)
        assert comes_true(lambda: origin.opened)
        with in_thread(lambda: ahead.read(80 * BLOCK, 10, 60)) as got:
            assert comes_true(lambda: len(origin.opened) == 2)
            body.gate.set()
            assert read_all(behind) == data
        assert got == [data[80 * BLOCK : 80 * BLOCK + 10]]
    assert [start for start, _ in origin.opened] == [0, 80 * BLOCK]


class StoppingBody(BytesBody):
    """Returns one block, and no more until it is closed."""

    free = BLOCK

    def readinto(self, buffer: memoryview, /) -> int:
        if not self.free and self.closed.wait(60):
            raise ConnectionCut("registry", 0, "closed")
        count = super().readinto(buffer[: self.free])
        self.free -= count
        return count


def test_a_request_that_no_reader_follows_makes_room_for_one_that_a_reader_needs(node: Node) -> None:
    # As engines read that start a container before its layers have arrived (eStargz, SOCI).
    data, layer = make_layer(100 * (MAX_STREAMS + 2) * BLOCK)
    bodies: list[BytesBody] = []

    def body(view: memoryview) -> BytesBody:
        bodies.append(StoppingBody(view))
        return bodies[-1]

    origin = BytesOrigin(data, body=body)
    with node.downloads.open(layer, origin) as follower:
        assert follower.read(0, 10, 30) == data[:10]
        for start in range(100 * BLOCK, len(data), 100 * BLOCK):
            with node.downloads.open(layer, origin) as reader:
                assert reader.read(start, 10, 30) == data[start : start + 10]
        closed = [body.closed.is_set() for body in bodies]
        assert (len(closed), sum(closed)) == (MAX_STREAMS + 2, 2)
        assert not closed[0]


def test_wrong_bytes_are_never_cached(node: Node) -> None:
    data, layer = make_layer(3 * BLOCK)
    wrong = bytes(BLOCK) + data[BLOCK:]
    with node.downloads.open(layer, BytesOrigin(wrong)):
        assert str(layer.digest) in (wait_for_end(node, layer) or "")
    assert not cached(node, layer)
    with node.downloads.open(layer, BytesOrigin(data)) as reader:
        assert read_all(reader) == data


def test_a_cut_connection_is_resumed_where_it_broke(node: Node) -> None:
    data, layer = make_layer(10 * BLOCK)
    cuts = iter([3 * BLOCK + 100, 2 * BLOCK])

    def cut(view: memoryview) -> BytesBody:
        return BytesBody(view[: next(cuts, len(view))])

    origin = BytesOrigin(data, body=cut)
    with node.downloads.open(layer, origin) as reader:
        assert read_all(reader) == data
    assert [offset for offset, _ in origin.opened] == [0, 3 * BLOCK, 5 * BLOCK]


def test_the_registrys_refusal_reaches_the_reader(node: Node) -> None:
    data, layer = make_layer(3 * BLOCK)
    origin = BytesOrigin(data, error=Refused("registry", 401, "token expired"))
    with node.downloads.open(layer, origin) as reader, pytest.raises(Refused):
        reader.read(0, 10, 30)


def test_after_an_expired_token_the_next_caller_resumes_the_download(node: Node) -> None:
    data, layer = make_layer(10 * BLOCK)

    def cut_and_expire(view: memoryview) -> BytesBody:
        origin.error = Refused("registry", 401, "token expired")
        return BytesBody(view[: 4 * BLOCK])

    origin = BytesOrigin(data, body=cut_and_expire)
    with node.downloads.open(layer, origin) as reader, pytest.raises(Refused):
        read_all(reader)
    renewed = BytesOrigin(data)
    with node.downloads.open(layer, renewed) as reader:
        assert reader.read(5 * BLOCK, 10, 30) == data[5 * BLOCK : 5 * BLOCK + 10]
        assert read_all(reader) == data
    assert {offset for offset, _ in renewed.opened} <= {4 * BLOCK, 5 * BLOCK}
    assert node.downloads.totals().origins["registry"] == len(data)


def test_a_reader_gives_up_after_its_time_limit(node: Node) -> None:
    data, layer = make_layer(3 * BLOCK)
    body = gated()
    with node.downloads.open(layer, BytesOrigin(data, body=body)) as reader:
        with pytest.raises(TimedOut):
            reader.read(0, 10, 0.05)
        body.gate.set()
        assert read_all(reader) == data


def test_closing_interrupts_readers(tmp_path: Path) -> None:
    data, layer = make_layer(3 * BLOCK)
    body = gated()
    got: list[BaseException] = []

    def read() -> None:
        try:
            reader.read(0, 10, 60)
        except Interrupted as error:
            got.append(error)

    with start_node(tmp_path) as node:
        reader = node.downloads.open(layer, BytesOrigin(data, body=body))
        thread = threading.Thread(target=read)
        thread.start()
        assert comes_true(lambda: node.downloads.status()[0].state == "http")
        with in_thread(node.downloads.close):
            try:
                assert comes_true(lambda: got)
            finally:
                body.gate.set()
        thread.join(60)
    assert len(got) == 1


def test_a_layer_larger_than_the_cache_is_passed_through(tmp_path: Path) -> None:
    data, layer = make_layer(300_000)
    with start_node(tmp_path, cache_size=200_000) as node:
        with node.downloads.open(layer, BytesOrigin(data)) as reader:
            assert reader.read(100_000, 10, 5) == data[100_000:100_010]
            assert read_all(reader) == data
        assert node.downloads.totals().fallbacks == {"cache_full": 1}
        assert not cached(node, layer)


def test_of_a_layer_that_is_passed_through_only_the_requested_range_is_read(tmp_path: Path) -> None:
    data, layer = make_layer(10 * BLOCK)
    origin = BytesOrigin(data)
    with start_node(tmp_path, cache_size=BLOCK) as node, node.downloads.open(layer, origin, 700) as reader:
        assert reader.read(500, 200, 30) == data[500:700]
    assert origin.opened == [(500, 200)]


def test_an_unavailable_registry_is_an_error_not_a_short_body(node: Node) -> None:
    data, layer = make_layer(3 * BLOCK)
    origin = BytesOrigin(data, error=Unavailable("registry", "status 503"))
    with node.downloads.open(layer, origin) as reader, pytest.raises(Unavailable):
        reader.read(0, 10, 30)
    [status] = node.downloads.status()
    assert status.state == "failed"
    assert "503" in str(status.error)


def test_a_part_whose_file_was_removed_is_not_resumed(tmp_path: Path) -> None:
    data, layer = make_layer(10 * BLOCK)

    def cut_and_expire(view: memoryview) -> BytesBody:
        origin.error = Refused("registry", 401, "token expired")
        return BytesBody(view[: 4 * BLOCK])

    origin = BytesOrigin(data, body=cut_and_expire)
    with (
        start_node(tmp_path) as node,
        node.downloads.open(layer, origin) as reader,
        pytest.raises(Refused),
    ):
        read_all(reader)
    file = tmp_path / "layers" / layer.digest.hex
    assert file.stat().st_size == len(data)
    file.write_bytes(b"")
    with start_node(tmp_path) as node, node.downloads.open(layer, BytesOrigin(data)) as reader:
        assert read_all(reader) == data


def test_a_download_whose_thread_cannot_start_keeps_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, layer = make_layer(200_000)
    other_data, other = make_layer(250_000, seed=2)
    start = Download.start

    def fail(download: Download) -> None:
        if download.layer == layer:
            raise RuntimeError("can't start new thread")
        start(download)

    monkeypatch.setattr(Download, "start", fail)
    with start_node(tmp_path, cache_size=300_000) as node:
        for _ in range(2):
            with node.downloads.open(layer, BytesOrigin(data)) as reader:
                assert read_all(reader) == data
        assert node.downloads.status() == []
        assert pull(node, other, BytesOrigin(other_data)) == other_data
        assert cached(node, other)


def test_a_cached_layer_that_cannot_be_read_comes_from_the_registry(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, layer = make_layer(300_000)
    pull(node, layer, BytesOrigin(data))
    read = CachedLayer.read

    def read_bad_sector(cached: CachedLayer, offset: int, limit: int) -> bytes:
        if offset >= 200_000:
            raise OSError(errno.EIO, "Input/output error")
        return read(cached, offset, limit)

    monkeypatch.setattr(CachedLayer, "read", read_bad_sector)
    with node.downloads.open(layer, BytesOrigin(data)) as reader:
        assert read_all(reader) == data
    assert node.downloads.totals().fallbacks["disk_error"] == 1
