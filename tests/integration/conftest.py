"""Fixtures of several files: a database of each engine, and an HTTP server whose answers a test sets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sql.engine import create_engine_for
from tests.integration.sql.database import Database
from tests.servers.http_server import HttpServer, start_http_server


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
