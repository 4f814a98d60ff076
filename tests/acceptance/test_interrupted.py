"""Brewers that are stopped, killed or cut off from the database: no layer is lost or brewed twice."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.servers.bad_http import dripping, replying
from tests.servers.http_server import Answer, Connection, HttpServer, Request, start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.postgres import PostgresServer, start_postgres
from tests.servers.push import push_image
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true

SIZE = 400_000
KNOWN = "SELECT count(*) FROM rbtorrent_mapping"
LOCKED = "SELECT count(*) FROM rbtorrent_mapping WHERE brew_lock IS NOT NULL"


@pytest.fixture
def slow(registry: Registry) -> Iterator[HttpServer]:
    """A registry that sends its blobs a few bytes at a time."""
    with start_http_server() as server:
        yield server


def brewed_in(*logs: Path) -> list[str]:
    """Return the digests that these brewers have logged as brewed, in order."""
    return [digest for log in logs for digest in re.findall(r"layer brewed digest=(\S+)", log.read_text())]


def queued(installation: Installation, registry: Registry, scope: str, number: int, seed: int) -> list[str]:
    """Push and queue `number` new layers, and return their digests."""
    layers = [layer_bytes(SIZE, seed + index) for index in range(number)]
    image = push_image(registry, scope, "v1", layers)
    installation.run("backfill", "repository", scope)
    return [layer.digest for layer in image.layers]


def slow_installation(
    folder: Path, slow: HttpServer, scope: str, digest: str, answer: Answer, brew_discard_timeout: int = 300
) -> Installation:
    """Return an installation with the queue of `folder`, which receives one blob by `answer`."""
    slow.on(f"/v2/{scope}/blobs/{digest}", answer)
    return Installation(
        folder,
        slow.netloc,
        docker_registry={"read_timeout": 600},
        brewer={"brew_discard_timeout": brew_discard_timeout, "sleep_time": 0.5, "workers": 2},
        layers={"connections": 1},
        application={"state_dir": str(folder.parent / "shared")},
    )


def endless_installation(folder: Path, slow: HttpServer, scope: str, digest: str) -> Installation:
    """Return such an installation whose blob takes longer than any test."""
    drip = dripping(bytes(SIZE), size=SIZE // 1000, seconds=1, headers={"Docker-Content-Digest": digest})
    return slow_installation(folder, slow, scope, digest, drip)


def held(content: bytes, go_on: threading.Event) -> Answer:
    """The first half of the content, and the second half once `go_on` is set."""

    def answer(request: Request, connection: Connection) -> None:
        connection.send_head(200, {"Content-Length": str(len(content))})
        connection.send(content[: len(content) // 2])
        while not go_on.is_set():
            connection.pause(0.05)
        connection.send(content[len(content) // 2 :])

    return answer


def test_a_layer_whose_brewer_is_killed_is_brewed_by_another_once(
    tmp_path: Path, registry: Registry, slow: HttpServer, scope: str
) -> None:
    shared = {"state_dir": str(tmp_path / "shared")}
    sound = Installation(tmp_path / "sound", registry, brewer={"brew_discard_timeout": 3}, application=shared)
    usual = Installation(tmp_path / "usual", registry, application=shared)
    [digest] = queued(sound, registry, scope, 1, seed=100)
    doomed = endless_installation(tmp_path / "doomed", slow, scope, digest)
    with doomed.process("run", "brew") as brewer:
        assert comes_true(lambda: sound.sqlite_value(LOCKED) == 1)
        brewer.kill()

    assert usual.last_line("run", "brew") == "brewed 0, failed 0, waiting 0"
    assert usual.last_line("run", "release-locks") == "released 0"
    assert comes_true(lambda: sound.last_line("run", "brew") == "brewed 1, failed 0, waiting 0")

    layer = sound.json("show", digest)
    assert (layer["state"], layer["attempts"]) == ("brewed", 1)
    assert brewed_in(doomed.folder / "program.log") == []


def test_a_brewer_that_is_stopped_releases_its_layers_at_once(
    tmp_path: Path, registry: Registry, slow: HttpServer, scope: str
) -> None:
    sound = Installation(tmp_path / "sound", registry, application={"state_dir": str(tmp_path / "shared")})
    [digest] = queued(sound, registry, scope, 1, seed=200)
    doomed = endless_installation(tmp_path / "doomed", slow, scope, digest)
    with doomed.process("run", "brew") as brewer:
        assert comes_true(lambda: sound.sqlite_value(LOCKED) == 1)
        brewer.send_signal(signal.SIGTERM)
        # Not everything was done.
        assert brewer.exit_status() == 1

        layer = sound.json("show", digest)
        assert (layer["state"], layer["attempts"]) == ("waiting", 0)
        assert "returned 1" in (doomed.folder / "program.log").read_text()
    assert sound.last_line("run", "brew") == "brewed 1, failed 0, waiting 0"


def test_a_layer_brewed_for_longer_than_the_time_out_is_not_stolen(
    tmp_path: Path, registry: Registry, slow: HttpServer, scope: str
) -> None:
    # The lock is renewed every 20 s: a brewer that is delayed for less than 40 s does not lose it.
    timeout, go_on = 60, threading.Event()
    sound = Installation(
        tmp_path / "sound",
        registry,
        brewer={"brew_discard_timeout": timeout},
        application={"state_dir": str(tmp_path / "shared")},
    )
    [digest] = queued(sound, registry, scope, 1, seed=300)
    answer = held(registry.blob_file(digest).read_bytes(), go_on)
    brewing = slow_installation(tmp_path / "brewing", slow, scope, digest, answer, timeout)

    def lock() -> int:
        locked: int = sound.sqlite_value("SELECT max(coalesce(brew_lock, 0)) FROM rbtorrent_mapping")
        return locked

    with brewing.process("run", "brew") as brewer:
        assert comes_true(lock)
        first = lock()
        # The first lock is too old then.
        assert comes_true(lambda: time.time() > first + timeout + 1, timeout=2 * timeout)
        results = {sound.last_line("run", "release-locks"), sound.last_line("run", "brew")}
        assert lock() > first
        go_on.set()
        assert brewer.exit_status() == 0

    assert results == {"released 0", "brewed 0, failed 0, waiting 0"}
    assert brewed_in(brewing.folder / "program.log") == [digest]
    assert sound.json("show", digest)["state"] == "brewed"


def test_the_daemons_scheduler_releases_its_layers_and_ends_on_a_signal(
    tmp_path: Path, registry: Registry, slow: HttpServer, scope: str
) -> None:
    sound = Installation(tmp_path / "sound", registry, application={"state_dir": str(tmp_path / "shared")})
    [digest] = queued(sound, registry, scope, 1, seed=400)
    doomed = endless_installation(tmp_path / "doomed", slow, scope, digest)
    with doomed.process("scheduler") as scheduler:
        assert comes_true(lambda: sound.sqlite_value(LOCKED) == 1)
        scheduler.send_signal(signal.SIGTERM)
        assert comes_true(lambda: not scheduler.alive)

    assert sound.json("show", digest)["state"] == "waiting"


@pytest.fixture
def fragile(tmp_path: Path) -> Iterator[PostgresServer]:
    """A PostgreSQL that a test may stop and start."""
    (tmp_path / "postgres").mkdir()
    with start_postgres(tmp_path / "postgres") as server:
        yield server


def test_a_database_stopped_and_started_during_a_chunk_loses_nothing(
    tmp_path: Path, registry: Registry, slow: HttpServer, scope: str, fragile: PostgresServer
) -> None:
    url = fragile.create_database("torrents")
    # It is down for longer than that, but the locks were not released.
    sections = {"db": {"url": url}, "brewer": {"brew_discard_timeout": 3, "sleep_time": 0.5}}
    sound = Installation(tmp_path / "sound", registry, **sections)
    digests = queued(sound, registry, scope, 6, seed=500)
    down = threading.Event()

    def when_it_is_down(request: Request, connection: Connection) -> None:
        while not down.is_set():
            connection.pause(0.05)
        connection.reply(200, registry.blob_file(request.path.rpartition("/")[2]).read_bytes())

    slow.on(f"/v2/{scope}/blobs/*", when_it_is_down)
    brewing = Installation(
        tmp_path / "brewing",
        slow.netloc,
        **sections,
        docker_registry={"read_timeout": 600},
        layers={"connections": 1},
    )
    log = brewing.folder / "program.log"
    with brewing.process("run", "brew") as brewer:
        assert comes_true(lambda: sound.json("queue", "status")["locked_count"] == 6)
        fragile.stop()
        down.set()
        assert comes_true(lambda: any(request.sent > SIZE for request in slow.requests))
        assert comes_true(lambda: "database failed" in log.read_text())
        # The brewer keeps trying to finish a layer.
        assert not comes_true(lambda: not brewer.alive, timeout=5)
        fragile.start()
        assert comes_true(lambda: not brewer.alive)

    assert sorted(brewed_in(log)) == sorted(digests)
    assert {sound.json("show", digest)["state"] for digest in digests} == {"brewed"}
    assert {sound.json("show", digest)["attempts"] for digest in digests} == {0}


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_brewers_in_several_processes_brew_every_layer_once(
    tmp_path: Path, registry: Registry, scope: str, engine: str, request: pytest.FixtureRequest
) -> None:
    sections = {"db": {"url": request.getfixturevalue("postgres_url")}} if engine == "postgresql" else {}
    installation = Installation(tmp_path, registry, **sections)
    image = push_image(registry, scope, "v1", [layer_bytes(2000, 600 + index) for index in range(60)])
    installation.run("backfill", "repository", scope)
    with ExitStack() as stack:
        brewers = [
            stack.enter_context(installation.process("run", "brew", name=f"brewer{number}"))
            for number in range(3)
        ]
        for brewer in brewers:
            assert comes_true(lambda brewer=brewer: not brewer.alive)

    brewed = brewed_in(*(tmp_path / f"brewer{number}.log" for number in range(3)))
    assert sorted(brewed) == sorted(layer.digest for layer in image.layers)


def test_a_backfill_killed_at_any_point_and_started_again_misses_nothing(
    tmp_path: Path, registry: Registry, scope: str
) -> None:
    installation = Installation(tmp_path, registry)
    installation.init_db()
    digests = set()
    for number in range(15):
        layers = [layer_bytes(1000, 700 + 2 * number), layer_bytes(1000, 701 + 2 * number)]
        image = push_image(registry, scope, f"v{number}", layers)
        digests |= {layer.digest for layer in image.layers}
    # Slow enough that even all of them together do not finish.
    for rate in ("4", "6", "8"):
        before = installation.sqlite_value(KNOWN)
        with installation.process(
            "backfill", "repository", "--rate", rate, scope, name="backfill"
        ) as backfill:
            assert comes_true(lambda before=before: installation.sqlite_value(KNOWN) > before)
            backfill.kill()

    installation.run("backfill", "repository", scope)

    assert installation.json("queue", "status")["waiting_count"] == len(digests)


def test_an_interrupted_command_explains_how_to_resume(tmp_path: Path, slow: HttpServer, scope: str) -> None:
    go_on = threading.Event()
    tags = json.dumps({"name": scope, "tags": [f"v{number}" for number in range(5)]}).encode()
    slow.on(f"/v2/{scope}/tags/list", replying(200, tags, {"Content-Type": "application/json"}))
    slow.on(f"/v2/{scope}/manifests/*", held(b"", go_on))
    installation = Installation(tmp_path, slow.netloc, docker_registry={"read_timeout": 600})
    log = tmp_path / "program.log"
    with installation.process("backfill", "repository", scope) as backfill:
        assert comes_true(lambda: any("/manifests/" in request.path for request in slow.requests))
        backfill.send_signal(signal.SIGINT)
        assert comes_true(lambda: "stopping; press Ctrl-C again" in log.read_text())
        go_on.set()
        assert comes_true(lambda: not backfill.alive)

    assert "interrupted: run it again to continue" in log.read_text()
