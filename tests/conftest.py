"""Shared fixtures: servers that run once per session, and a new database, scope or bucket for each test."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.constants import AMPLE_WAITS
from tests.servers.moto import Moto, start_moto
from tests.servers.postgres import PostgresServer, configured_postgres, start_postgres
from tests.servers.process import ServerMissing
from tests.servers.registry import Registry, start_registry

_numbers = itertools.count(1)

# A busy machine may be slow.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts background commands so, and the programs that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _skipping_where_a_server_is_missing() -> Iterator[None]:
    try:
        yield
    except ServerMissing as missing:
        if os.environ.get("REQUIRE_SERVERS") == "1":
            pytest.fail(f"REQUIRE_SERVERS=1, but {missing}", pytrace=False)
        pytest.skip(str(missing))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None]:
    """Skip the test if a fixture misses its server, or fail it under REQUIRE_SERVERS=1."""
    with _skipping_where_a_server_is_missing():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """Do the same for a test that starts servers itself."""
    with _skipping_where_a_server_is_missing():
        return (yield)


@pytest.fixture(autouse=True)
def ample_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait long for the database."""
    for name, seconds in AMPLE_WAITS.items():
        monkeypatch.setattr(name, seconds)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """One PostgreSQL for the session: TEST_DATABASE_URL's, or one of our own."""
    configured = configured_postgres()
    if configured is not None:
        yield configured
        return
    with start_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> Iterator[str]:
    """The URL of an empty PostgreSQL database, dropped after the test."""
    name = f"test_{os.getpid()}_{next(_numbers)}"
    url = postgres.create_database(name)
    yield url
    postgres.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each engine in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'database.sqlite'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One open registry for the session; each test pushes to its own `scope`."""
    with start_registry(tmp_path_factory.mktemp("registry"), delete=True) as server:
        yield server


@pytest.fixture
def scope() -> str:
    """The name of a repository that no other test uses."""
    return f"tests/scope-{next(_numbers)}"


@pytest.fixture(scope="session")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Moto]:
    """One S3 for the session."""
    with start_moto(tmp_path_factory.mktemp("moto")) as server:
        yield server


@pytest.fixture
def bucket(moto: Moto) -> str:
    """The name of an empty bucket on `moto`."""
    return moto.create_bucket()
