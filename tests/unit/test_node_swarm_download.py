"""The swarm calls of a download, with stand-ins for libtorrent, the service and the web seed."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from core.digest import Digest
from core.errors import Interrupted, Unavailable
from core.swarm.messages import Lease, SwarmAnswer, SwarmRequest
from node.counters import Counters
from node.metainfo import Metainfo
from node.origin import PulledLayer
from node.pieces import Pieces
from node.session import TorrentStatus
from node.swarm_client import SwarmAddress
from node.swarm_download import SwarmDownload

DATA = bytes(64 * 1024)
METAINFO = Metainfo(b"", len(DATA), len(DATA), hashlib.sha1(DATA, usedforsecurity=False).digest(), ())


class Stalling:
    """A web seed whose first request does not end; later ones are answered at once."""

    rate = None

    def __init__(self) -> None:
        self.requested = threading.Event()
        self._closed = threading.Event()

    def fetch(self, pieces: range, is_missing: object, deliver: Callable[[int, bytes, bool], None]) -> None:
        if not self.requested.is_set():
            self.requested.set()
            self._closed.wait(60)
            return
        for piece in pieces:
            deliver(piece, DATA, False)

    def set_web_seed(self, url: str) -> None:
        """Do nothing."""

    def close(self) -> None:
        self._closed.set()


class FailingService:
    """Leases the only chunk once, and then fails."""

    address = SwarmAddress("http://a", "c")

    def __init__(self, web_seed: Stalling) -> None:
        self.reports: list[list[int]] = []
        self._web_seed = web_seed
        self.end: Callable[[], None] = lambda: None

    def call(self, request: SwarmRequest) -> SwarmAnswer:
        self.reports.append(request.fetched)
        if len(self.reports) == 1:
            return SwarmAnswer(peers=[], leases=[Lease(chunk=0, seconds=60)], again=0.1, capability="c")
        assert self._web_seed.requested.wait(60)
        if request.fetched or len(self.reports) == 20:
            self.end()
        raise Unavailable("the service", "down")


def add_torrent(metainfo: Metainfo, folder: Path, pieces: Pieces) -> Mock:
    pieces.on_checked([False])
    return Mock(available=list, status=lambda: TorrentStatus(0, 0, 0))


def test_a_leased_chunk_that_was_fetched_without_its_lease_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.swarm_download.backoff", lambda *_: 0.1)
    web_seed = Stalling()
    service = FailingService(web_seed)
    download = SwarmDownload(
        PulledLayer(Digest("0" * 64), "library/test", len(DATA)),
        METAINFO,
        tmp_path,
        Mock(add=add_torrent, node="0" * 32, port=6881),
        cast(Any, web_seed),
        cast(Any, service),
        list,
        threading.Condition(),
        Counters(),
        lambda: None,
        60.0,
    )
    service.end = download.stop
    with pytest.raises(Interrupted):
        download.run()
    assert service.reports[-1] == [0]
