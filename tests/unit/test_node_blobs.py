"""How long the mirror waits for the bytes of a layer, with stand-ins for the registry and the download."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import bottle
import pytest

from core.digest import Digest
from core.errors import TimedOut
from node.blobs import Blobs
from node.verdicts import Verdict
from tests.wsgi import environ_of

CONTENT = bytes(range(256)) * 4
DIGEST = Digest("0" * 64)


class Reader:
    """Its download receives other bytes during each of `waits`, then its own."""

    def __init__(self, waits: int, progress: bool) -> None:
        self.downloaded: int | None = 0
        self.waits = waits
        self.progress = progress

    def read(self, offset: int, limit: int, timeout: float) -> bytes:
        if self.waits:
            self.waits -= 1
            self.downloaded = (self.downloaded or 0) + self.progress
            raise TimedOut("layer", timeout)
        return CONTENT[offset : offset + min(limit, 100)]


def blobs(reader: Reader) -> Blobs:
    """Return the part of the app that serves the layer, with this reader."""

    @contextmanager
    def open_reader(*_: object) -> Iterator[Reader]:
        yield reader

    verdicts = SimpleNamespace(authorize=lambda *_: Verdict(len(CONTENT)), torrent_allowed=lambda scope: True)
    return Blobs(cast(Any, None), cast(Any, verdicts), cast(Any, SimpleNamespace(open=open_reader)), 0.1)


def test_a_reader_waits_for_its_turn_while_other_bytes_arrive() -> None:
    reader = Reader(waits=3, progress=True)
    app = bottle.Bottle()
    app.route("/", callback=lambda: blobs(reader).answer(bottle.request.environ, "a", DIGEST))
    started: list[str] = []

    body = app(environ_of("GET", "/", {"Range": "bytes=300-"}), lambda status, *_: started.append(status))

    # An engine gets the head before the first byte, as it does not wait long for that.
    assert (started, reader.waits) == (["206 Partial Content"], 2)
    assert b"".join(body) == CONTENT[300:]
    body.close()


def test_without_any_progress_the_request_fails() -> None:
    with pytest.raises(TimedOut):
        blobs(Reader(waits=1, progress=False)).answer(environ_of("GET", "/", {}), "a", DIGEST)


def test_a_body_ends_early_without_any_progress(caplog: pytest.LogCaptureFixture) -> None:
    reader = Reader(waits=1, progress=True)
    body = blobs(reader).answer(environ_of("GET", "/", {}), "a", DIGEST).body
    assert body.read(50) == CONTENT[:50]
    reader.waits, reader.progress = 1, False
    assert body.read(50) == b""
    assert "connection broken" in caplog.text
