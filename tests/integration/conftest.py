"""Fixtures of several files: a database of each engine, and an HTTP server whose answers a test sets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sql.engine import create_engine_for
from tests.integration.sql.database import Database
from tests.servers.http_server import HttpServer, start_http_server


@pytest.fixture(autouse=True)
def ample_waits_of_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes wait long for the service and the swarm, as the machine may be busy. Tests of slow ones set less."""
    monkeypatch.setattr("node.fallback.STALLED_SECONDS", float("inf"))
    monkeypatch.setattr("node.swarm_client._SECONDS", 60.0)
    for name in ("IDLE_SECONDS", "STUCK_SECONDS"):
        monkeypatch.setattr(f"node.swarm_download.{name}", 60.0)
    monkeypatch.setattr("node.upstream.TORRENT_SECONDS", 60.0)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """A database with its tables, of each engine in turn."""
    engine = create_engine_for(url=database_url)
    yield Database.created(engine)
    engine.dispose()


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """An HTTP server without answers."""
    with start_http_server() as running:
        yield running
