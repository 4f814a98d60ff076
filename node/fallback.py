"""Rules for using the registry although a swarm exists, and for the pause before. Pure functions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STALLED_SECONDS = 5.0
"""Seconds without a byte after which a reader is stalled."""
FAR_BEHIND_FACTOR = 3.0
"""A reader is far behind if plain HTTP would have delivered this many times as many bytes."""
PAUSE_PER_NODE = 0.25
"""Seconds that each other node of the swarm adds to the longest pause."""
MAX_PAUSE = 60.0
MAX_RUN = 16
"""The most chunks read in one request."""


@dataclass(slots=True, eq=False)
class ReaderState:
    """The position and progress of a reader. Times are monotonic seconds, `offset` and `received` bytes.

    `waiting_since` is None while it does not wait, `waited` is when it last did. `uses_registry` is whether
    its last bytes came from the registry because it was stalled: until the swarm serves it again, the next
    ones are requested there at once. `piece` is the number and the bytes of the piece that it is reading.
    """

    started: float
    offset: int = 0
    received: int = 0
    waiting_since: float | None = None
    waited: float = float("-inf")
    uses_registry: bool = False
    piece: tuple[int, bytes] | None = None
    error: Exception | None = None


def is_stalled(reader: ReaderState, now: float, http_rate: float | None) -> bool:
    """Return whether the reader's next bytes must come from the registry.

    `http_rate` is the recent rate of plain HTTP in bytes per second, None if it was not used.
    """
    if reader.waiting_since is None:
        return False
    if reader.uses_registry or now - reader.waiting_since >= STALLED_SECONDS:
        return True
    elapsed = now - reader.started
    return (
        http_rate is not None
        and elapsed >= STALLED_SECONDS
        and reader.received * FAR_BEHIND_FACTOR < http_rate * elapsed
    )


def is_first_waiting(reader: ReaderState, readers: Iterable[ReaderState], now: float) -> bool:
    """Return whether no other reader waits for earlier bytes, or did until recently.

    Layers arrive roughly from their beginning. Engines that read in parallel have readers far ahead of that:
    if each of them counted as stalled, every node would read the layer from the registry.
    """
    return not any(
        other.offset < reader.offset
        and (other.waiting_since is not None or now - other.waited < STALLED_SECONDS)
        for other in readers
    )


def pause_before_registry(others: int, generator: random.Random) -> float:
    """Return how long to wait before a request to the registry, in seconds.

    Random, and growing with the number of other nodes: nodes that are stalled at the same time send a few
    requests a second, not all at once.
    """
    return generator.uniform(0, min(MAX_PAUSE, PAUSE_PER_NODE * others))


def chunk_without_service(
    missing: Sequence[int], wanted: int, others: int, generator: random.Random
) -> int | None:
    """Choose the chunk to fetch without leases, None if there is nothing to fetch.

    `missing` are the chunks, ascending, that neither this node nor a connected peer has. Nodes that cannot
    coordinate choose at random; a node that knows no other continues from the reader's chunk, `wanted`.
    """
    if not missing:
        return None
    if others:
        return generator.choice(missing)
    return next((chunk for chunk in missing if chunk >= wanted), missing[0])


def chunks_per_request(others: int, consecutive: int) -> int:
    """Return how many chunks to read in one request from the registry.

    A node that knows no other continues reading. In a swarm the first request is for one chunk, and requests
    grow with the number of `consecutive` ones before: a silent swarm does not slow down a pull.
    """
    return MAX_RUN if not others else min(MAX_RUN, 2 ** min(consecutive, 10))


def backoff(failures: int, generator: random.Random) -> float:
    """Return the pause after this many consecutive failures, in seconds."""
    return generator.uniform(0.5, 1.0) * min(30.0, 2.0 ** min(failures, 5))
