"""What happens to a stalled reader when the request to the registry fails, with stand-ins for all else."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast
from unittest.mock import Mock

from core.digest import Digest
from core.errors import ConnectionCut
from core.swarm.chunks import Chunks
from node.counters import Counters
from node.fallback import ReaderState
from node.origin import PulledLayer
from node.stalled import StalledReaders

SIZE = 64 * 1024
LAYER = PulledLayer(Digest("0" * 64), "library/test", SIZE)
CUT = ConnectionCut("registry", 0, "closed")


class Download:
    """One piece, a reader that waits for it, and a request that ends after `during` was called."""

    def __init__(self, during: Callable[[Download], object] = lambda download: None) -> None:
        self.present = False
        self.over = False
        self.pauses = 10
        self.failed: list[Exception] = []
        self._during = during
        reader = ReaderState(started=0.0, waiting_since=time.monotonic() - 60)
        pieces = Mock(has=lambda piece: self.present, damaged=lambda piece: False)
        stalled = StalledReaders(
            LAYER,
            Chunks.of(SIZE, SIZE),
            pieces,
            cast(Any, self),
            lambda: [reader],
            lambda: 0,
            self._pause,
            self._fail,
            Counters(),
        )
        stalled.run()

    rate = None

    def fetch(self, *_: object, **__: object) -> None:
        self._during(self)
        raise CUT

    def _pause(self, seconds: float, until: object) -> bool:
        self.pauses -= 1
        return not self.over and self.pauses > 0

    def _fail(self, reader: ReaderState, error: Exception) -> None:
        self.failed.append(error)
        self.over = True


def test_a_reader_ends_with_the_error_of_its_request() -> None:
    assert Download().failed == [CUT]


def test_a_reader_of_a_download_that_has_ended_does_not_get_an_error() -> None:
    def end(download: Download) -> None:
        download.over = True

    assert Download(end).failed == []


def test_a_reader_served_by_the_swarm_meanwhile_does_not_get_an_error() -> None:
    def serve(download: Download) -> None:
        download.present = True

    assert Download(serve).failed == []
