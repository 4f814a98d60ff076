"""A reader resumes where the source failed: no byte is repeated or lost, and retries are limited."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.blobs.resume import ResumingReader, RetryPolicy
from core.blobs.source import BlobReader
from core.digest import Digest
from core.errors import ConnectionCut, NotFound, RangeIgnored
from core.layer import Layer
from tests.memory_source import Fault, Kind, MemorySource

CONTENT = bytes(number * 7 % 251 for number in range(5000))
DIGEST = Digest(hashlib.sha256(CONTENT).hexdigest())
LAYER = Layer(DIGEST)
KINDS: list[Kind] = ["cut", "timeout", "early end", "unavailable", "refused connection"]
BREAKS: list[Kind] = ["cut", "timeout", "early end", "unavailable"]


def source_with(
    *faults: Fault | None, content: bytes = CONTENT, ignores_ranges: bool = False
) -> MemorySource:
    return MemorySource({DIGEST: content}, faults=faults, ignores_ranges=ignores_ranges)


def resuming(
    source: MemorySource,
    offset: int = 0,
    end: int = len(CONTENT),
    *,
    exact: bool = False,
    retry: RetryPolicy | None = None,
    sleep: Callable[[float], object] = lambda _seconds: None,
) -> ResumingReader:
    return ResumingReader(
        source,
        LAYER,
        offset,
        end,
        exact=exact,
        retry=retry or RetryPolicy(progress=1),
        sleep=sleep,
    )


def read_all(reader: BlobReader, at_once: int = 997) -> bytes:
    got = bytearray()
    buffer = memoryview(bytearray(at_once))
    while count := reader.readinto(buffer):
        got += buffer[:count]
    return bytes(got)


@given(
    faults=st.lists(st.builds(Fault, st.sampled_from(KINDS), st.integers(0, 6000)), max_size=12),
    offset=st.integers(0, len(CONTENT)),
    at_once=st.integers(1, 6000),
    most_per_read=st.integers(1, 6000),
)
def test_cuts_anywhere_do_not_change_the_bytes(
    faults: list[Fault], offset: int, at_once: int, most_per_read: int
) -> None:
    source = source_with(*faults)
    source.most_per_read = most_per_read

    with resuming(source, offset, retry=RetryPolicy(tries=len(faults) + 1)) as reader:
        assert read_all(reader, at_once) == CONTENT[offset:]

    assert not source.open_readers


@given(
    faults=st.lists(st.builds(Fault, st.sampled_from(KINDS), st.integers(0, 6000)), max_size=8),
    span=st.tuples(st.integers(0, len(CONTENT)), st.integers(0, len(CONTENT))).map(sorted),
)
def test_an_exact_range_returns_exactly_its_bytes(faults: list[Fault], span: list[int]) -> None:
    offset, end = span

    with resuming(
        source_with(*faults), offset, end, exact=True, retry=RetryPolicy(tries=len(faults) + 1)
    ) as reader:
        assert read_all(reader) == CONTENT[offset:end]


@given(
    faults=st.lists(st.builds(Fault, st.sampled_from(KINDS), st.integers(0, 6000)), max_size=6),
    offset=st.integers(0, len(CONTENT)),
)
def test_a_source_that_ignores_ranges_is_read_again_and_its_beginning_skipped(
    faults: list[Fault], offset: int
) -> None:
    # Each attempt opens it twice: once for the range, once for the whole layer.
    source = source_with(*faults, ignores_ranges=True)

    with resuming(source, offset, retry=RetryPolicy(tries=len(faults) + 1)) as reader:
        assert read_all(reader) == CONTENT[offset:]

    assert not source.open_readers


def test_a_resumed_read_requests_only_what_is_missing() -> None:
    source = source_with(Fault("cut", 1000), Fault("timeout", 500))

    with resuming(source) as reader:
        read_all(reader)

    assert source.opened == [(0, None), (1000, None), (1500, None)]


def test_an_exact_range_leaves_a_source_that_ignores_ranges_to_the_caller() -> None:
    with (
        resuming(source_with(ignores_ranges=True), 100, 200, exact=True) as reader,
        pytest.raises(RangeIgnored),
    ):
        read_all(reader)


@pytest.mark.parametrize("kind", BREAKS)
def test_a_source_without_progress_is_abandoned_at_that_byte(kind: Kind) -> None:
    source = source_with(Fault(kind, 1234), *[Fault(kind, 0)] * 20)

    with resuming(source, retry=RetryPolicy(tries=4)) as reader, pytest.raises(ConnectionCut) as raised:
        read_all(reader)

    assert raised.value.offset == 1234
    assert "4 attempts" in str(raised.value)
    assert len(source.opened) == 4
    assert not source.open_readers


def test_a_source_that_returns_a_byte_at_a_time_is_abandoned_too() -> None:
    source = source_with(*[Fault("cut", 1)] * 1000)

    with (
        resuming(source, retry=RetryPolicy(tries=5, progress=100)) as reader,
        pytest.raises(ConnectionCut) as raised,
    ):
        read_all(reader)

    assert raised.value.offset == 5


def test_progress_resets_the_retries() -> None:
    source = source_with(*[Fault("cut", 100)] * 40)

    with resuming(source, retry=RetryPolicy(tries=2, progress=100)) as reader:
        assert read_all(reader) == CONTENT


def test_pauses_grow_up_to_a_limit_and_start_again_after_progress() -> None:
    pauses: list[float] = []
    nothing = [Fault("cut", 0)] * 4
    source = source_with(*nothing, Fault("cut", 1000), *nothing)

    with resuming(
        source,
        retry=RetryPolicy(tries=6, first_pause=0.5, max_pause=3.0, progress=1000),
        sleep=pauses.append,
    ) as reader:
        read_all(reader)

    assert pauses == [0.5, 1.0, 2.0, 3.0, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_a_blob_that_vanishes_is_missing_at_once() -> None:
    source = source_with(Fault("cut", 1000))
    pauses: list[float] = []

    def vanish(seconds: float) -> None:
        pauses.append(seconds)
        source.layers.clear()

    with resuming(source, sleep=vanish) as reader, pytest.raises(NotFound):
        read_all(reader)

    assert len(pauses) == 1


def test_bytes_beyond_the_end_are_passed_on() -> None:
    with resuming(source_with(content=CONTENT + b"more")) as reader:
        assert read_all(reader) == CONTENT + b"more"


@pytest.mark.parametrize("kind", BREAKS)
def test_a_source_that_fails_after_the_last_byte_has_ended(kind: Kind) -> None:
    source = source_with(Fault(kind, len(CONTENT)))

    with resuming(source) as reader:
        assert read_all(reader) == CONTENT

    assert len(source.opened) == 1


def test_an_error_raised_by_the_pause_ends_the_read() -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    source = source_with(Fault("cut", 1000))
    with resuming(source, sleep=interrupt) as reader, pytest.raises(KeyboardInterrupt):
        read_all(reader)

    assert not source.open_readers


def test_a_closed_reader_is_not_resumed() -> None:
    source = source_with()
    reader = resuming(source)
    reader.readinto(memoryview(bytearray(10)))

    reader.close()
    reader.close()

    with pytest.raises(ConnectionCut):
        reader.readinto(memoryview(bytearray(10)))
    assert not source.open_readers


def test_a_reader_that_is_open_already_is_used() -> None:
    source = source_with()
    first = source.open(LAYER, 0)

    with ResumingReader(source, LAYER, 0, len(CONTENT), first=first) as reader:
        assert read_all(reader) == CONTENT

    assert source.opened == [(0, None)]
