"""The conformance suite of all layer sources."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from core.blobs.layer_reader import open_layer
from core.blobs.resume import RetryPolicy
from core.blobs.source import BlobReader, BlobSource
from core.errors import (
    ConnectionCut,
    LayerError,
    NotFound,
    Refused,
    RemoteError,
    SizeMismatch,
    TimedOut,
    Unavailable,
)
from core.layer import Layer
from core.torrents.hashing import hash_layer
from tests.layer_backends import (
    READ_TIMEOUT,
    Backend,
    DirectoryBackend,
    MemoryBackend,
    layer_of,
    mds_backend,
    registry_backend,
    registry_on_s3_backend,
    s3_backend,
)
from tests.servers.cutting_proxy import CuttingProxy, How
from tests.servers.layers import layer_bytes
from tests.servers.waiting import comes_true

SIZE = 3_000_000
CONTENT = layer_bytes(SIZE, seed=2)
UNKNOWN = layer_of(b"a layer that nobody has")
RETRY = RetryPolicy(first_pause=0.05)

LOCAL = ["memory", "directory"]
REMOTE = ["registry", "registry on S3", "S3", "MDS"]


@pytest.fixture
def read_timeout() -> float:
    """The time-out of the backend's source; tests of silence have a parameter of this name."""
    return READ_TIMEOUT


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path, read_timeout: float) -> Iterator[Any]:
    """The backend named by the test's parameter."""
    shared = request.getfixturevalue
    made: AbstractContextManager[Any]
    match request.param:
        case "memory":
            made = nullcontext(MemoryBackend())
        case "directory":
            made = nullcontext(DirectoryBackend(registry=shared("registry"), scope=shared("scope")))
        case "registry":
            made = registry_backend(shared("registry"), shared("scope"), tmp_path, read_timeout)
        case "registry on S3":
            made = registry_on_s3_backend(
                shared("moto"), shared("bucket"), shared("scope"), tmp_path, read_timeout
            )
        case "S3":
            made = s3_backend(shared("moto"), shared("bucket"), read_timeout)
        case _:
            made = mds_backend(tmp_path, read_timeout)
    with made as ready:
        yield ready


everywhere = pytest.mark.parametrize("backend", LOCAL + REMOTE, indirect=True)
over_a_connection = pytest.mark.parametrize("backend", REMOTE, indirect=True)


def read_all(reader: BlobReader) -> bytes:
    got = bytearray()
    buffer = memoryview(bytearray(64 * 1024))
    with reader:
        while count := reader.readinto(buffer):
            got += buffer[:count]
    return bytes(got)


def proxy_of(backend: Backend) -> CuttingProxy:
    assert backend.proxy is not None
    return backend.proxy


def read_resumed(source: BlobSource, layer: Layer, connections: int = 1, window: int = 1 << 20) -> bytes:
    return read_all(open_layer(source, layer, SIZE, connections, window=window, retry=RETRY))


def no_thread_is_left() -> bool:
    return not [thread for thread in threading.enumerate() if thread.name.startswith("range-")]


@everywhere
def test_a_layer_is_read_completely(backend: Backend) -> None:
    layer = backend.put(CONTENT)

    assert backend.source.size(layer) == SIZE
    assert read_all(backend.source.open(layer, 0)) == CONTENT


@everywhere
@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, 1), (0, SIZE), (1, None), (1_000_000, 500_000), (SIZE - 1, None), (SIZE - 1, 1), (7, SIZE - 7)],
)
def test_a_layer_is_read_from_an_offset(backend: Backend, offset: int, length: int | None) -> None:
    layer = backend.put(CONTENT)

    expected = CONTENT[offset:] if length is None else CONTENT[offset : offset + length]
    assert read_all(backend.source.open(layer, offset, length)) == expected


@everywhere
def test_a_layer_of_one_byte_is_read(backend: Backend) -> None:
    layer = backend.put(b"1")

    assert backend.source.size(layer) == 1
    assert read_all(open_layer(backend.source, layer, 1, 4)) == b"1"


@everywhere
def test_an_unknown_layer_is_missing(backend: Backend) -> None:
    backend.put(CONTENT)

    with pytest.raises(NotFound, match=UNKNOWN.digest.hex):
        backend.source.size(UNKNOWN)
    with pytest.raises(NotFound, match=UNKNOWN.digest.hex):
        backend.source.open(UNKNOWN, 0)


@everywhere
def test_a_layer_that_vanishes_between_its_size_and_its_bytes_is_missing(backend: Backend) -> None:
    layer = backend.put(CONTENT)
    assert backend.source.size(layer) == SIZE
    backend.remove(layer)

    with pytest.raises(NotFound):
        backend.source.open(layer, 0)
    with pytest.raises(NotFound):
        backend.source.open(layer, 1000, 1000)


@everywhere
@pytest.mark.parametrize("wrong", [SIZE - 1, SIZE // 2, SIZE + 1, 2 * SIZE])
def test_a_layer_of_another_size_than_announced_is_an_error(backend: Backend, wrong: int) -> None:
    layer = backend.put(CONTENT)
    backend.replace(layer, (CONTENT + CONTENT)[:wrong])

    with (
        pytest.raises((RemoteError, LayerError)) as raised,
        open_layer(backend.source, layer, SIZE, 1, retry=RETRY) as reader,
    ):
        hash_layer(reader, SIZE, 1 << 20)
    expected = SizeMismatch if wrong > SIZE else (SizeMismatch, ConnectionCut, Refused)
    assert isinstance(raised.value, expected)


@everywhere
def test_many_threads_share_a_source(backend: Backend) -> None:
    layer = backend.put(CONTENT)
    part = SIZE // 24

    with ThreadPoolExecutor(8) as pool:
        parts = pool.map(
            lambda offset: read_all(backend.source.open(layer, offset, part)), range(0, SIZE, part)
        )
    assert b"".join(parts) == CONTENT


@everywhere
def test_a_reader_may_be_closed_early_and_twice(backend: Backend) -> None:
    layer = backend.put(CONTENT)
    reader = backend.source.open(layer, 0)
    assert reader.readinto(memoryview(bytearray(1000))) > 0
    reader.close()
    reader.close()

    assert read_all(backend.source.open(layer, SIZE - 10)) == CONTENT[-10:]


@everywhere
def test_a_check_summarises_in_one_line_what_was_probed(backend: Backend) -> None:
    backend.put(CONTENT)

    line = backend.source.check()
    assert line
    assert "\n" not in line


@over_a_connection
@pytest.mark.parametrize("how", ["end", "reset"])
def test_a_layer_cut_in_the_middle_is_resumed(backend: Backend, how: How) -> None:
    layer = backend.put(CONTENT)
    proxy_of(backend).break_after(1_000_000, times=2, how=how)

    assert read_resumed(backend.source, layer) == CONTENT
    assert proxy_of(backend).broken == 2


@over_a_connection
@pytest.mark.parametrize("read_timeout", [5.0])
def test_a_layer_that_stalls_in_the_middle_is_resumed_after_the_time_out(
    backend: Backend, read_timeout: float
) -> None:
    layer = backend.put(CONTENT)
    proxy_of(backend).break_after(1_000_000, how="stall")

    begun = time.monotonic()
    assert read_resumed(backend.source, layer) == CONTENT
    assert time.monotonic() - begun > read_timeout * 0.9
    assert proxy_of(backend).broken == 1


@over_a_connection
def test_a_layer_without_progress_is_abandoned(backend: Backend) -> None:
    layer = backend.put(CONTENT)
    proxy_of(backend).break_after(100_000, times=1000)

    with (
        pytest.raises(ConnectionCut) as raised,
        open_layer(backend.source, layer, SIZE, 1, retry=RetryPolicy(3, 0.05, progress=SIZE)) as reader,
    ):
        read_all(reader)
    assert 0 < raised.value.offset < SIZE
    assert proxy_of(backend).broken == 3


@over_a_connection
def test_a_throttled_layer_is_read_over_several_connections_at_once(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = backend.put(CONTENT)
    proxy_of(backend).throttle(1_000_000)
    first_ranges = iter(range(6))
    together = threading.Barrier(6, timeout=60)
    open_blob = backend.source.open

    def open_together(layer: Layer, offset: int, length: int | None = None) -> BlobReader:
        reader = open_blob(layer, offset, length)
        # Only parallel reads have a length.
        if length is not None and next(first_ranges, None) is not None:
            together.wait()
        return reader

    monkeypatch.setattr(backend.source, "open", open_together)

    assert read_resumed(backend.source, layer, connections=6, window=6 * 64 * 1024) == CONTENT
    assert proxy_of(backend).most_at_once >= 6
    assert comes_true(no_thread_is_left)


@over_a_connection
def test_parallel_ranges_are_resumed_separately(backend: Backend) -> None:
    layer = backend.put(CONTENT)
    proxy_of(backend).throttle(2_000_000)
    proxy_of(backend).break_after(150_000, times=6)

    assert read_resumed(backend.source, layer, connections=4, window=1 << 20) == CONTENT
    assert proxy_of(backend).broken == 6
    assert comes_true(no_thread_is_left)


@over_a_connection
def test_a_read_that_waits_for_bytes_ends_when_its_reader_is_closed(backend: Backend) -> None:
    layer = backend.put(CONTENT)
    proxy_of(backend).break_after(500_000, how="stall")
    reader = backend.source.open(layer, 0)
    ends: list[RemoteError] = []

    def read() -> None:
        try:
            read_all(reader)
        except RemoteError as error:
            ends.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    assert comes_true(lambda: proxy_of(backend).broken)
    reader.close()
    thread.join(60)
    assert len(ends) == 1
    assert not isinstance(ends[0], TimedOut)


@over_a_connection
@pytest.mark.parametrize("read_timeout", [2.0])
def test_silence_is_a_time_out(backend: Backend) -> None:
    layer = backend.put(CONTENT)
    proxy_of(backend).be_silent()

    with pytest.raises(TimedOut):
        backend.source.open(layer, 0)


@over_a_connection
def test_refused_credentials_set_the_layer_aside(backend: Backend) -> None:
    layer = backend.put(CONTENT)
    source = backend.refused()

    with pytest.raises(Refused):
        source.open(layer, 0)
    with pytest.raises(Refused):
        source.check()


@over_a_connection
def test_a_server_that_is_down_is_retried_later(backend: Backend) -> None:
    layer = backend.put(CONTENT)
    source = backend.unreachable()

    with pytest.raises(Unavailable):
        source.open(layer, 0)
    with pytest.raises(Unavailable):
        source.check()
