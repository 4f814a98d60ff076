"""One connection while it is fast, several when it is slow, one again if ranges do not work."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.blobs.layer_reader import AcceleratingReader, open_layer
from core.blobs.ranges import ParallelReader
from core.blobs.resume import ResumingReader, RetryPolicy
from core.blobs.source import BlobReader
from core.digest import Digest
from core.errors import ConnectionCut, Interrupted, NotFound
from core.layer import Layer
from tests.clock import Clock
from tests.memory_source import Fault, Kind, MemorySource

CONTENT = bytes(number * 7 % 251 for number in range(40_000))
DIGEST = Digest(hashlib.sha256(CONTENT).hexdigest())
LAYER = Layer(DIGEST)
RANGE = 1000
TRIAL = 8000
KINDS: list[Kind] = ["cut", "timeout", "early end", "unavailable"]
AT_ONCE = RetryPolicy(progress=1, first_pause=0.0)


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("range-")]


def accelerating(
    source: MemorySource, clock: Clock, parallel: type[ParallelReader] = ParallelReader
) -> AcceleratingReader:
    size = len(source.layers[DIGEST])
    return AcceleratingReader(
        ResumingReader(source, LAYER, 0, size, retry=AT_ONCE),
        lambda offset: parallel(source, LAYER, offset, size, connections=4, range_bytes=RANGE, retry=AT_ONCE),
        lambda offset: ResumingReader(source, LAYER, offset, size, retry=AT_ONCE),
        size=size,
        min_remaining=2 * RANGE,
        trial_bytes=TRIAL,
        clock=clock,
    )


def read_all(reader: BlobReader, at_once: int = 997) -> bytes:
    got = bytearray()
    buffer = memoryview(bytearray(at_once))
    while count := reader.readinto(buffer):
        got += buffer[:count]
    return bytes(got)


def slow(clock: Clock) -> MemorySource:
    """Return a source that takes 110 ms for each read over one connection, and no time over several."""

    def take_time(_offset: int) -> None:
        if threading.current_thread() is threading.main_thread():
            clock.now += 0.11

    return MemorySource({DIGEST: CONTENT}, before_read=take_time)


def test_a_slow_source_is_read_in_parallel() -> None:
    clock = Clock()
    source = slow(clock)
    with accelerating(source, clock) as reader:
        first = memoryview(bytearray(100))
        assert reader.readinto(first) == 100
        assert not reader.parallel
        assert reader.readinto(first) == 100
        assert reader.parallel
        assert read_all(reader) == CONTENT[200:]

    assert source.opened[0] == (0, None)
    assert sorted(source.opened[1:])[:2] == [(200, RANGE), (1200, RANGE)]


def test_a_fast_source_is_read_over_one_connection() -> None:
    clock = Clock()
    source = MemorySource({DIGEST: CONTENT})
    with accelerating(source, clock) as reader:
        got = bytearray()
        buffer = memoryview(bytearray(997))
        while count := reader.readinto(buffer):
            got += buffer[:count]
            clock.now += 0.11  # the reader is slow, not the source
        assert got == CONTENT

    assert source.opened == [(0, None)]


def test_a_source_that_becomes_slow_is_detected() -> None:
    clock = Clock()
    source = MemorySource({DIGEST: CONTENT})

    def slow_down(offset: int) -> None:
        if offset >= 20_000 and threading.current_thread() is threading.main_thread():
            clock.now += 0.11

    source.before_read = slow_down
    with accelerating(source, clock) as reader:
        got = bytearray()
        buffer = memoryview(bytearray(500))
        while count := reader.readinto(buffer):
            got += buffer[:count]
            clock.now += 0.03
        assert got == CONTENT
        assert reader.parallel


def test_one_slow_moment_changes_nothing() -> None:
    clock = Clock()
    source = MemorySource({DIGEST: CONTENT})

    def slow_once_in_a_while(offset: int) -> None:
        if offset % 4000 == 0:
            clock.now += 0.11

    source.before_read = slow_once_in_a_while
    with accelerating(source, clock) as reader:
        got = bytearray()
        buffer = memoryview(bytearray(1000))
        while count := reader.readinto(buffer):
            got += buffer[:count]
            clock.now += 0.06
        assert got == CONTENT

    assert source.opened == [(0, None)]


class TimedReader(ParallelReader):
    """Reads in parallel, at a speed that tests set."""

    clock: Clock
    seconds: float

    def readinto(self, buffer: memoryview, /) -> int:
        self.clock.now += self.seconds
        return super().readinto(buffer)


@pytest.mark.parametrize("times_faster", [0.8, 1.0, 1.1, 1.6, 8.0])
def test_several_connections_are_kept_only_if_they_are_faster(times_faster: float) -> None:
    clock = Clock()
    source = slow(clock)
    TimedReader.clock, TimedReader.seconds = clock, 0.11 / times_faster
    with accelerating(source, clock, parallel=TimedReader) as reader:
        assert read_all(reader, at_once=100) == CONTENT
        assert reader.parallel == (times_faster > 1.25)

    ranges_end = max(offset + length for offset, length in source.opened if length)
    if times_faster > 1.25:
        assert ranges_end == len(CONTENT)
    else:
        # Bytes that were read ahead are used: the single connection starts where the ranges end.
        assert source.opened[-1] == (ranges_end, None)
        assert TRIAL <= ranges_end < 2 * TRIAL


def test_a_small_remainder_opens_no_more_connections() -> None:
    clock = Clock()
    source = slow(clock)
    source.layers[DIGEST] = CONTENT[: 2 * RANGE + 100]
    with accelerating(source, clock) as reader:
        assert read_all(reader, at_once=100) == CONTENT[: 2 * RANGE + 100]

    assert source.opened == [(0, None)]


def test_a_slow_source_that_ignores_ranges_is_read_over_one_connection() -> None:
    clock = Clock()
    source = slow(clock)
    source.ignores_ranges = True
    with accelerating(source, clock) as reader:
        assert read_all(reader) == CONTENT
        assert not reader.parallel


def test_a_source_that_refuses_several_connections_is_read_over_one() -> None:
    clock = Clock()
    source = slow(clock)
    refused = threading.Event()

    def only_one(offset: int) -> None:
        if threading.current_thread() is threading.main_thread():
            clock.now += 0.11
        else:
            refused.set()
            raise ConnectionCut("memory", offset, "too many connections")

    source.before_read = only_one
    with accelerating(source, clock) as reader:
        assert read_all(reader) == CONTENT
    assert refused.is_set()


@given(
    faults=st.lists(st.none() | st.builds(Fault, st.sampled_from(KINDS), st.integers(0, 3000)), max_size=20),
    at_once=st.integers(300, 9000),
)
def test_cuts_anywhere_do_not_change_the_bytes(faults: list[Fault | None], at_once: int) -> None:
    clock = Clock()
    source = slow(clock)
    source.faults = [None, *faults]
    with accelerating(source, clock) as reader:
        assert read_all(reader, at_once) == CONTENT


def test_opening_an_absent_layer_raises_not_found() -> None:
    with pytest.raises(NotFound):
        open_layer(MemorySource({}), LAYER, 10, connections=4)


@pytest.mark.parametrize(
    ("connections", "allowed", "size"),
    [(1, True, 40_000), (4, False, 40_000), (4, True, 1999)],
    ids=["one connection", "no ranges in parallel", "less than two ranges"],
)
def test_one_connection_is_enough_for(connections: int, allowed: bool, size: int) -> None:
    source = MemorySource({DIGEST: CONTENT[:size]}, parallel=allowed)
    with open_layer(source, LAYER, size, connections, window=4000) as reader:
        assert isinstance(reader, ResumingReader)
        assert read_all(reader) == CONTENT[:size]


def test_an_interruption_ends_the_pause_before_a_resumed_read() -> None:
    source = MemorySource({DIGEST: CONTENT}, faults=[Fault("cut", 10)])
    with (
        open_layer(
            source,
            LAYER,
            len(CONTENT),
            connections=1,
            retry=RetryPolicy(first_pause=3600, max_pause=3600),
            interrupted=lambda: True,
        ) as reader,
        pytest.raises(Interrupted),
    ):
        read_all(reader)
