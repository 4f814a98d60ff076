"""When a node turns to the registry although a swarm exists, and how long it waits before. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

PATIENCE = 5.0
"""Seconds without a byte after which a reader is stalled."""
FAR_BEHIND = 3.0
"""A reader is far behind when plain HTTP would have given this many times what it got."""
PAUSE_PER_NODE = 0.25
"""Seconds that each other node of the swarm adds to the longest pause."""
LONGEST_PAUSE = 60.0
LONGEST_RUN = 16
"""Chunks that are read in one request, at most."""


@dataclass(slots=True)
class Progress:
    """What a reader wants and what it got. Times are monotonic seconds, `offset` and `received` bytes.

    `waiting_since` is None while it does not wait. `helped` is whether its last bytes came from the registry
    by the rule below: then it is not left waiting again before the swarm serves it.
    """

    started: float
    offset: int = 0
    received: int = 0
    waiting_since: float | None = None
    helped: bool = False
    error: Exception | None = None


def is_stalled(reader: Progress, now: float, http_rate: float | None) -> bool:
    """Whether the reader's next bytes have to come from the registry.

    `http_rate` is what plain HTTP gave lately, in bytes per second, None if it was not tried.
    """
    if reader.waiting_since is None:
        return False
    if reader.helped or now - reader.waiting_since >= PATIENCE:
        return True
    elapsed = now - reader.started
    return (
        http_rate is not None and elapsed >= PATIENCE and reader.received * FAR_BEHIND < http_rate * elapsed
    )


def pause_before_registry(others: int, generator: random.Random) -> float:
    """Return how long to wait before asking the registry, in seconds.

    Random, and growing with the number of other nodes: nodes in trouble together ask a few times a second,
    not all at once.
    """
    return generator.uniform(0, min(LONGEST_PAUSE, PAUSE_PER_NODE * others))


def chunk_without_service(
    lacking: Sequence[int], wanted: int, others: int, generator: random.Random
) -> int | None:
    """Choose the chunk to fetch when no leases can be had, None if there is nothing to fetch.

    `lacking` are the chunks, ascending, that neither this node nor a connected peer has. Nodes that cannot
    coordinate choose at random; a node that knows of no other goes on from the reader's chunk, `wanted`.
    """
    if not lacking:
        return None
    if others:
        return generator.choice(lacking)
    return next((chunk for chunk in lacking if chunk >= wanted), lacking[0])


def run_length(others: int, row: int) -> int:
    """Return how many chunks to read in one request from the registry.

    A node that knows of no other reads on; in a swarm the first request is for one chunk, and requests grow
    with `row`, the number of those before it in a row: a swarm that stays silent does not make a pull slow.
    """
    return LONGEST_RUN if not others else min(LONGEST_RUN, 2 ** min(row, 10))


def backoff(failures: int, generator: random.Random) -> float:
    """Return the pause after so many failures in a row, in seconds."""
    return generator.uniform(0.5, 1.0) * min(30.0, 2.0 ** min(failures, 5))
