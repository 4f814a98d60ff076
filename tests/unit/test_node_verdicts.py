"""What the mirror remembers of the registry's verdicts, and who waits for one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core.digest import Digest
from core.errors import TimedOut
from node.verdicts import Verdicts
from tests.nodes import make_layer, make_torrent
from tests.servers.waiting import comes_true

COMMENT = b"7:comment1048576:" + bytes(1 << 20)


class Upstream:
    """A service that gives a torrent of a MiB for each of its layers."""

    def __init__(self, number: int) -> None:
        layers = [make_layer(100, seed) for seed in range(number)]
        self.torrents = {layer.digest: make_torrent(data) for data, layer in layers}
        self.asked: list[Digest] = []

    def torrent(self, scope: str, digest: Digest, authorization: str | None) -> bytes:
        self.asked.append(digest)
        return b"d" + COMMENT + self.torrents[digest][1:]


def test_verdicts_with_large_torrents_are_remembered_as_far_as_memory_allows() -> None:
    upstream = Upstream(40)
    verdicts = Verdicts(upstream)  # type: ignore[arg-type]
    layers = list(upstream.torrents)
    for digest in [*layers, layers[-1], layers[0]]:
        assert verdicts.authorize("a", digest, None).size == 100
    assert upstream.asked == [*layers, layers[0]]


class SilentRegistry:
    """Keeps each caller waiting until `gives_up` is set."""

    def __init__(self) -> None:
        self.gives_up = threading.Event()
        self.requests = 0

    def torrent(self, scope: str, digest: Digest, authorization: str | None) -> bytes:
        self.requests += 1
        self.gives_up.wait(60)
        raise TimedOut("registry", 30)


def test_identical_callers_wait_for_a_silent_registry_together_and_others_do_not() -> None:
    waiting = set()

    class Credentials(str):
        def encode(self, *_: str) -> bytes:
            waiting.add(threading.get_ident())
            return super().encode()

    upstream = SilentRegistry()
    verdicts, digest = Verdicts(upstream), make_layer(100)[1].digest  # type: ignore[arg-type]
    with ThreadPoolExecutor(10) as callers:
        answers = [callers.submit(verdicts.authorize, "a", digest, Credentials("Bearer a")) for _ in range(9)]
        assert comes_true(lambda: len(waiting) == 9)
        answers.append(callers.submit(verdicts.authorize, "a", digest, "Bearer b"))
        assert comes_true(lambda: upstream.requests == 2)
        upstream.gives_up.set()
    assert {type(answer.exception()) for answer in answers} == {TimedOut}
    # One after the other, they would have made ten requests.
    assert upstream.requests < 9
    with pytest.raises(TimedOut):
        verdicts.authorize("a", digest, "Bearer a")  # no failure is remembered
