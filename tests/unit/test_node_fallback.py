"""When a node falls back to the registry, for which chunks, and after which pause."""

from __future__ import annotations

import random

import pytest

from node.fallback import (
    MAX_PAUSE,
    MAX_RUN,
    PAUSE_PER_NODE,
    STALLED_SECONDS,
    ReaderState,
    backoff,
    chunk_without_service,
    chunks_per_request,
    is_first_waiting,
    is_stalled,
    pause_before_registry,
)


def test_a_reader_is_stalled_after_five_seconds_without_a_byte() -> None:
    reader = ReaderState(started=0.0, waiting_since=100.0)
    assert not is_stalled(reader, 100.0 + STALLED_SECONDS - 0.1, None)
    assert is_stalled(reader, 100.0 + STALLED_SECONDS, None)


def test_a_reader_that_is_not_waiting_is_never_stalled() -> None:
    assert not is_stalled(ReaderState(started=0.0, uses_registry=True), 1000.0, 1e9)


def test_a_reader_that_fell_back_once_does_not_wait_as_long_again() -> None:
    assert is_stalled(ReaderState(started=0.0, waiting_since=9.0, uses_registry=True), 9.0, None)


@pytest.mark.parametrize(
    ("received", "elapsed", "rate", "stalled"),
    [
        (1_000_000, 10.0, 1_000_000.0, True),  # plain HTTP would have delivered 10 MB
        (4_000_000, 10.0, 1_000_000.0, False),
        (0, STALLED_SECONDS - 1, 1_000_000.0, False),  # too early to say
        (1_000_000, 10.0, None, False),  # the speed of plain HTTP is unknown
    ],
)
def test_a_reader_far_behind_plain_http_is_stalled(
    received: int, elapsed: float, rate: float | None, stalled: bool
) -> None:
    reader = ReaderState(started=0.0, received=received, waiting_since=elapsed - 0.1)
    assert is_stalled(reader, elapsed, rate) is stalled


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (ReaderState(0.0, offset=50, waiting_since=99.0), False),
        (ReaderState(0.0, offset=50, waited=99.0), False),  # it is sending what it has just got
        (ReaderState(0.0, offset=50, waited=100.0 - STALLED_SECONDS), True),  # its engine has stopped reading
        (ReaderState(0.0, offset=200, waiting_since=10.0), True),
    ],
)
def test_a_reader_ahead_of_one_that_waits_is_served_after_it(other: ReaderState, expected: bool) -> None:
    reader = ReaderState(0.0, offset=100, waiting_since=10.0)
    assert is_first_waiting(reader, [reader, other], 100.0) is expected


def test_pauses_grow_with_the_swarm_up_to_a_limit() -> None:
    generator = random.Random(1)
    assert pause_before_registry(0, generator) == 0
    few = [pause_before_registry(4, generator) for _ in range(1000)]
    many = [pause_before_registry(40, generator) for _ in range(1000)]
    assert max(few) <= 4 * PAUSE_PER_NODE < max(many) <= 40 * PAUSE_PER_NODE
    assert max(pause_before_registry(10_000, generator) for _ in range(1000)) <= MAX_PAUSE


def test_a_swarm_in_trouble_makes_few_requests_a_second_whatever_its_size() -> None:
    generator = random.Random(1)
    for nodes in (10, 50, 200):
        pauses = sorted(pause_before_registry(nodes - 1, generator) for _ in range(nodes))
        in_the_first_second = sum(pause < 1 for pause in pauses)
        assert in_the_first_second < 12


def test_nodes_without_the_service_choose_different_chunks() -> None:
    generator = random.Random(1)
    chosen = {chunk_without_service(range(100), 0, 10, generator) for _ in range(50)}
    assert len(chosen) > 20
    assert chunk_without_service([], 0, 10, generator) is None


def test_a_lone_node_continues_from_its_reader() -> None:
    generator = random.Random(1)
    assert chunk_without_service([0, 5, 9], 4, 0, generator) == 5
    assert chunk_without_service([0, 5, 9], 10, 0, generator) == 0


def test_requests_grow_while_the_swarm_stays_silent() -> None:
    assert [chunks_per_request(10, consecutive) for consecutive in range(6)] == [1, 2, 4, 8, 16, 16]
    assert chunks_per_request(0, 0) == MAX_RUN


def test_pauses_after_failures_grow_up_to_half_a_minute() -> None:
    generator = random.Random(1)
    assert 0.5 <= backoff(0, generator) <= 1
    assert 15 <= backoff(100, generator) <= 30
