"""Manifests while the database is down, hangs, or has no tables are still served, and quickly."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import web.id_lookup
import web.on_demand
from core.digest import Digest
from core.manifests.manifest import LayerDescriptor, parse_manifest
from core.manifests.media_types import DOCKER_MANIFEST
from sql.engine import create_engine_for
from sql.tables import Priority, build_tables
from tests.clock import Clock
from tests.servers.postgres import OwnPostgres, start_postgres
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true
from tests.web_manifests import brew, ids, image_of, rbtorrent
from tests.web_parts import rows
from tests.web_server import Front, front_of
from web.limits import DatabasePause
from web.on_demand import MAX_WAITING, OnDemandQueue


@pytest.fixture
def postgres_of_its_own(tmp_path: Path) -> Iterator[OwnPostgres]:
    with start_postgres(tmp_path / "postgres") as server:
        yield server


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never answers, as a server that hangs."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield listener.getsockname()[1]


def get_ids(front: Front, scope: str) -> list[str | None]:
    answer = front.get(f"/v2/{scope}/manifests/latest")
    assert answer.status == 200
    return ids(answer)


def test_with_postgresql_stopped_and_started_again(
    registry: Registry,
    postgres_of_its_own: OwnPostgres,
    scope: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, image = Clock(1_700_000_000.0), image_of(registry, scope)
    postgres_of_its_own.create_database("app")
    url = postgres_of_its_own.url("app")
    with front_of(registry.netloc, tmp_path, database_url=url, clock=clock) as front:
        brew(front, *image.layers[:2])
        postgres_of_its_own.stop()
        # It is not queried on each request.
        for _ in range(3):
            assert get_ids(front, scope) == [None] * 3
        assert caplog.text.count("lookup of ids failed") == 1
        postgres_of_its_own.start()
        clock.now += DatabasePause.SECONDS
        expected = [rbtorrent(layer.digest) for layer in image.layers[:2]]
        assert get_ids(front, scope) == [*expected, None]
        queue = front.parts.tables.queue
        assert comes_true(lambda: rows(front.parts, queue, "digest") == [(image.layers[2].digest,)])
        # Ids that are known do not need the database.
        postgres_of_its_own.stop()
        assert get_ids(front, scope) == [*expected, None]


@pytest.mark.parametrize("where", ["127.0.0.1:{port}", "127.0.0.1:1", "nobody.invalid:5432"])
def test_a_database_that_cannot_be_reached_costs_little_time(
    registry: Registry,
    scope: str,
    tmp_path: Path,
    silent_port: int,
    where: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web.id_lookup, "WAIT_SECONDS", 0.5)
    image_of(registry, scope)
    url = f"postgresql://user@{where.format(port=silent_port)}/app"
    engine = create_engine_for(url=url, connect_timeout=600.0)
    with front_of(registry.netloc, tmp_path, engine=engine) as front:
        for _ in range(3):
            began = time.monotonic()
            assert get_ids(front, scope) == [None] * 3
            assert time.monotonic() - began < 120


def test_many_requests_at_once_do_not_queue_up_for_a_database_that_hangs(
    registry: Registry, scope: str, tmp_path: Path, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.id_lookup, "WAIT_SECONDS", 4.0)
    image_of(registry, scope)
    engine = create_engine_for(url=f"postgresql://user@127.0.0.1:{silent_port}/app", connect_timeout=600.0)
    with front_of(registry.netloc, tmp_path, engine=engine) as front:
        began = time.monotonic()
        found: list[list[str | None]] = []
        threads = [threading.Thread(target=lambda: found.append(get_ids(front, scope))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert found == [[None] * 3] * 20
        # In sequence they would take 80 s.
        assert time.monotonic() - began < 70


def test_without_tables_only_the_ids_are_missing(
    registry: Registry, scope: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    image_of(registry, scope)
    engine = create_engine_for(url=f"sqlite:///{tmp_path / 'empty.sqlite'}")
    with front_of(registry.netloc, tmp_path / "front", engine=engine) as front:
        assert get_ids(front, scope) == [None] * 3
    assert "lookup of ids failed" in caplog.text


def test_layers_that_cannot_be_queued_are_requested_again(
    registry: Registry, postgres_of_its_own: OwnPostgres, scope: str, tmp_path: Path
) -> None:
    image = image_of(registry, scope)
    layers = parse_manifest(image.manifest, DOCKER_MANIFEST).layers  # type: ignore[union-attr] # an image
    postgres_of_its_own.create_database("app")
    url = postgres_of_its_own.url("app")
    with front_of(registry.netloc, tmp_path, database_url=url) as front:
        parts = front.parts
        asked = OnDemandQueue(parts.engine, parts.tables)
        try:
            postgres_of_its_own.stop()
            assert asked.put(scope, layers) == 3
            assert comes_true(lambda: asked.dropped == 3)
            postgres_of_its_own.start()
            assert asked.put(scope, layers) == 3
            assert comes_true(lambda: len(rows(parts, parts.tables.queue, "digest")) == 3)
            assert asked.put(scope, layers) == 0
        finally:
            asked.close()
        assert set(rows(parts, parts.tables.queue, "priority")) == {(Priority.ASKED,)}


def test_layers_beyond_the_limit_are_dropped_and_counted(silent_port: int) -> None:
    engine = create_engine_for(url=f"postgresql://user@127.0.0.1:{silent_port}/app", connect_timeout=60.0)
    asked = OnDemandQueue(engine, build_tables())
    layers = [
        LayerDescriptor(Digest(f"{number:064x}"), 1, "application/gzip", has_urls=False)
        for number in range(MAX_WAITING + 50)
    ]
    assert asked.put("first", layers[:1]) == 1
    assert comes_true(lambda: not asked._waiting), "the writer has taken it, and hangs"
    assert asked.put("second", layers) == MAX_WAITING
    assert asked.dropped == 50


def test_pending_requests_are_written_when_the_app_closes(
    registry: Registry, scope: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.on_demand, "_CLOSE_SECONDS", 120.0)
    image_of(registry, scope)
    with front_of(registry.netloc, tmp_path) as front:
        get_ids(front, scope)
        front.app.close()
        assert len(rows(front.parts, front.parts.tables.queue, "digest")) == 3
