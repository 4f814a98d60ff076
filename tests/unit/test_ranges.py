"""Parallel read-ahead: bytes are in order, memory is bounded, and threads end."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.blobs.ranges import ParallelReader
from core.blobs.resume import RetryPolicy
from core.digest import Digest
from core.errors import ConnectionCut, Interrupted, NotFound, RangeIgnored
from core.layer import Layer
from core.logs import current_request_id, request_id
from tests.memory_source import Fault, Kind, MemorySource
from tests.servers.waiting import comes_true

CONTENT = bytes(number * 7 % 251 for number in range(20_000))
DIGEST = Digest(hashlib.sha256(CONTENT).hexdigest())
LAYER = Layer(DIGEST)
KINDS: list[Kind] = ["cut", "timeout", "early end", "unavailable", "refused connection"]


def source_with(*faults: Fault | None, **rest: object) -> MemorySource:
    return MemorySource({DIGEST: CONTENT}, faults=faults, **rest)  # type: ignore[arg-type]


def parallel(
    source: MemorySource,
    offset: int = 0,
    end: int = len(CONTENT),
    *,
    connections: int = 4,
    range_bytes: int = 1000,
    retry: RetryPolicy | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> ParallelReader:
    return ParallelReader(
        source,
        LAYER,
        offset,
        end,
        connections=connections,
        range_bytes=range_bytes,
        retry=retry or RetryPolicy(progress=1, first_pause=0.0),
        interrupted=interrupted,
    )


def read_all(reader: ParallelReader, at_once: int = 997) -> bytes:
    got = bytearray()
    buffer = memoryview(bytearray(at_once))
    while count := reader.readinto(buffer):
        got += buffer[:count]
    return bytes(got)


def range_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("range-")]


@given(
    faults=st.lists(st.none() | st.builds(Fault, st.sampled_from(KINDS), st.integers(0, 3000)), max_size=20),
    span=st.tuples(st.integers(0, len(CONTENT)), st.integers(0, len(CONTENT))).map(sorted),
    connections=st.integers(1, 6),
    range_bytes=st.integers(500, 8000),
    at_once=st.integers(300, 9000),
    most_per_read=st.integers(200, 9000),
)
def test_cuts_anywhere_do_not_change_the_bytes(
    faults: list[Fault | None],
    span: list[int],
    connections: int,
    range_bytes: int,
    at_once: int,
    most_per_read: int,
) -> None:
    offset, end = span
    source = source_with(*faults, most_per_read=most_per_read)

    with parallel(
        source,
        offset,
        end,
        connections=connections,
        range_bytes=range_bytes,
        retry=RetryPolicy(tries=len(faults) + 2, first_pause=0.0),
    ) as reader:
        assert read_all(reader, at_once) == CONTENT[offset:end]

    assert comes_true(lambda: not range_threads())
    assert not source.open_readers


def test_ranges_are_requested_in_parallel() -> None:
    together = threading.Barrier(4, timeout=60)
    first_reads = {0, 1000, 2000, 3000}

    def meet(offset: int) -> None:
        if offset in first_reads:
            together.wait()

    with parallel(source_with(before_read=meet)) as reader:
        assert read_all(reader) == CONTENT


def test_ranges_are_requested_with_the_id_of_the_run() -> None:
    seen = set()
    with (
        request_id("brew-1"),
        parallel(source_with(before_read=lambda _: seen.add(current_request_id()))) as reader,
    ):
        assert read_all(reader) == CONTENT

    assert seen == {"brew-1"}


def test_no_more_is_read_ahead_than_the_window_holds() -> None:
    source = source_with()
    furthest_ahead = 0
    with parallel(source, connections=4, range_bytes=1000) as reader:
        assert comes_true(lambda: len(source.opened) == 4)
        buffer = memoryview(bytearray(100))
        while reader.readinto(buffer):
            asked_for = max(offset + (length or 0) for offset, length in source.opened)
            furthest_ahead = max(furthest_ahead, asked_for - reader.position)

    assert 3000 < furthest_ahead <= 4000


def test_bytes_are_returned_as_they_arrive_not_range_by_range() -> None:
    may_go_on = threading.Event()

    def wait_in_the_middle(offset: int) -> None:
        if offset >= 500:
            may_go_on.wait(60)

    source = source_with(before_read=wait_in_the_middle, most_per_read=500)
    with parallel(source) as reader:
        assert reader.readinto(memoryview(bytearray(1000))) == 500
        may_go_on.set()
        assert read_all(reader) == CONTENT[500:]


def test_closing_early_ends_threads_that_read_wait_or_pause() -> None:
    reading = threading.Event()
    closed = threading.Event()

    def never_comes(offset: int) -> None:
        if offset == 1000:
            raise ConnectionCut("memory", offset, "connection reset")
        if offset >= 2000:
            reading.set()
            closed.wait(60)

    # The second range fails and would be retried in an hour; the third and fourth never arrive.
    source = source_with(before_read=never_comes)
    reader = parallel(source, retry=RetryPolicy(first_pause=3600, max_pause=3600))
    assert reader.readinto(memoryview(bytearray(10))) == 10
    assert reading.wait(60)

    closing = threading.Thread(target=reader.close)
    closing.start()
    with pytest.raises(ConnectionCut):
        read_all(reader)
    closed.set()
    closing.join()
    reader.close()

    assert comes_true(lambda: not range_threads())
    assert not source.open_readers
    with pytest.raises(ConnectionCut):
        reader.readinto(memoryview(bytearray(10)))


def test_closing_from_another_thread_wakes_a_read() -> None:
    waiting, closed = threading.Event(), threading.Event()
    source = source_with(before_read=lambda _offset: closed.wait(60))
    # A read that waits asks whether it is interrupted.
    reader = parallel(source, interrupted=lambda: waiting.set() or False)

    def close() -> None:
        waiting.wait(60)
        reader.close()

    closing = threading.Thread(target=close)
    closing.start()
    with pytest.raises(ConnectionCut):
        read_all(reader)
    closed.set()
    closing.join()
    assert comes_true(lambda: not range_threads())


def test_an_interruption_is_noticed_while_no_bytes_arrive() -> None:
    stop = threading.Event()
    closed = threading.Event()
    source = source_with(before_read=lambda _offset: closed.wait(60))
    with parallel(source, interrupted=stop.is_set) as reader:
        threading.Timer(0.1, stop.set).start()
        with pytest.raises(Interrupted):
            read_all(reader)
        assert not closed.is_set()
        closed.set()
    assert comes_true(lambda: not range_threads())


def test_a_range_that_fails_permanently_raises_after_all_bytes_before_it() -> None:
    source = MemorySource({DIGEST: CONTENT})

    def vanish(offset: int) -> None:
        if offset == 5000:
            raise NotFound(f"blob {DIGEST} in memory")

    source.before_read = vanish
    with parallel(source) as reader:
        got = bytearray()
        buffer = memoryview(bytearray(300))

        def read_to_the_end() -> None:
            while count := reader.readinto(buffer):
                got.extend(buffer[:count])

        with pytest.raises(NotFound):
            read_to_the_end()
        assert got == CONTENT[:5000]
        assert reader.position == 5000
        with pytest.raises(NotFound):
            reader.readinto(buffer)
    assert comes_true(lambda: not range_threads())


def test_a_range_that_cannot_be_resumed_reports_its_position() -> None:
    source = source_with(None, Fault("cut", 300), *[Fault("refused connection")] * 100)
    with (
        parallel(source, retry=RetryPolicy(tries=3, first_pause=0.0)) as reader,
        pytest.raises(ConnectionCut) as cut,
    ):
        read_all(reader)

    assert cut.value.offset == reader.position


def test_a_source_that_ignores_ranges_is_detected_at_the_second() -> None:
    with parallel(source_with(ignores_ranges=True)) as reader:
        with pytest.raises(RangeIgnored):
            read_all(reader)
        assert reader.position == 1000
    assert comes_true(lambda: not range_threads())


def test_no_more_threads_are_started_than_there_are_ranges() -> None:
    held = threading.Event()
    source = source_with(before_read=lambda _offset: held.wait(60))
    with parallel(source, 0, 1500, connections=8) as reader:
        assert len(range_threads()) == 2
        held.set()
        assert read_all(reader) == CONTENT[:1500]
