"""The program, as operators run it: killed and resumed backfills, pruning, a tracker's whitelist."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from sql.engine import create_engine_for
from sql.tables import build_tables
from tests.installation import Installation
from tests.integration.sql.database import Database
from tests.layer_backends import layer_of
from tests.old_service import OldService, old_id_of
from tests.servers.layers import layer_bytes
from tests.servers.moto import Moto
from tests.servers.opentracker import start_opentracker
from tests.servers.process import free_port
from tests.servers.push import push_image
from tests.servers.registry import Registry, start_registry
from tests.servers.waiting import comes_true
from tests.storage_backends import DirectoryStorageBackend, put_blob

LAYERS = 3_000


@pytest.fixture(params=["sqlite", "postgresql"])
def db(request: pytest.FixtureRequest) -> dict[str, str]:
    """The section db, of each engine in turn."""
    return {"url": request.getfixturevalue("postgres_url")} if request.param == "postgresql" else {}


def mapping_of(installation: Installation) -> dict[str, tuple[str | None, int]]:
    """Return ids and times added, by digest."""
    url = installation.sections["db"].get("url") or f"sqlite:///{installation.state}/docker_torrents.sqlite"
    engine = create_engine_for(url=url)
    try:
        rows = Database(engine, build_tables()).mapping()
        return {digest: (row.rbtorrent_id, row.added) for digest, row in rows.items()}
    finally:
        engine.dispose()


def kill_again_and_again(installation: Installation, *words: str) -> None:
    """Start a command several times, and kill it each time once it has written some rows."""
    for number in range(3):
        before = len(mapping_of(installation))
        with installation.process(*words, name=f"killed{number}") as process:
            assert comes_true(lambda before=before: len(mapping_of(installation)) > before)
            process.kill()


def test_a_killed_and_restarted_backfill_of_a_storage_does_nothing_twice(
    tmp_path: Path, db: dict[str, str]
) -> None:
    backend = DirectoryStorageBackend(tmp_path / "storage")
    digests = {put_blob(backend, layer_bytes(64, seed), f"team/app{seed % 7}") for seed in range(LAYERS)}
    installation = Installation(
        tmp_path,
        f"127.0.0.1:{free_port()}",
        layers={"source": "directory", "directory": str(backend.root)},
        db=db,
    )
    words = ("backfill", "storage")
    assert "known 0" in installation.last_line(*words, "--dry-run")
    installation.init_db()

    # Slow enough that all of them together do not finish: about 100 rows every two seconds.
    kill_again_and_again(installation, *words, "--rate", "50")
    before = mapping_of(installation)
    last = installation.last_line(*words)

    assert set(before) < digests
    assert last.startswith(f"queued {LAYERS - len(before)} layers")
    assert f"known {len(before)}," in last
    after = mapping_of(installation)
    assert set(after) == digests
    assert before.items() <= after.items()
    assert installation.json("queue", "status")["waiting"]["backfilled"] == LAYERS
    assert installation.json("show", min(digests))["scopes"]
    assert installation.last_line(*words).startswith("queued 0 layers (0.0 MB), known 3000")


def test_a_killed_and_restarted_takeover_adopts_each_id_once(tmp_path: Path, db: dict[str, str]) -> None:
    installation = Installation(
        tmp_path,
        f"127.0.0.1:{free_port()}",
        db=db,
        mds={"url_template": f"http://127.0.0.1:{free_port()}/{{payload}}/"},
        layers={"source": "mds"},
    )
    installation.init_db()
    url = db.get("url") or f"sqlite:///{installation.state}/docker_torrents.sqlite"
    engine = create_engine_for(url=url)
    old = OldService(Database(engine, build_tables()))
    expected = {old.add(number): old_id_of(number) for number in range(300)}
    engine.dispose()

    # 8 rows every two seconds.
    kill_again_and_again(installation, "backfill", "legacy", "--rate", "4")
    before = {digest: id_ for digest, (id_, _) in mapping_of(installation).items()}
    last = installation.last_line("backfill", "legacy")

    assert before.items() < expected.items()
    assert last == f"took over {300 - len(before)} of 300 ids, {len(before)} known already, not taken 0"
    assert {digest: id_ for digest, (id_, _) in mapping_of(installation).items()} == expected

    # No server has the layers' bytes.
    verified = installation.run("backfill", "legacy", "--verify", "2", check=False)
    assert verified.returncode == 1
    assert "verified 2 layers: sound 0, missing 0, damaged 0, unread 2" in verified.stdout


def test_a_backfill_of_a_bucket_and_a_brew_from_it(tmp_path: Path, moto: Moto, bucket: str) -> None:
    s3 = {"endpoint_url": moto.endpoint, "region": moto.region}
    keys = {"access_key": moto.access_key, "secret_key": moto.secret_key}
    with start_registry(tmp_path / "registry", s3=moto.registry_storage(bucket)) as registry:
        image = push_image(registry, "team/app", "v1", [layer_bytes(70_000, 1), layer_bytes(300, 2)])
        installation = Installation(tmp_path, registry, layers={"bucket": bucket}, s3={**s3, **keys})

        refused = installation.run("backfill", "storage", check=False)
        assert refused.returncode == 2
        assert "name the storage to list with --from" in refused.stderr
        assert installation.last_line("backfill", "storage", "--from", "s3").startswith("queued 2 layers")
        assert installation.last_line("run", "brew") == "brewed 2, failed 0, waiting 0"
        whole = installation.json("show", "team/app:v1")
    assert whole["layers_brewed"] == len(image.layers) == 2


def test_a_storage_that_cannot_be_listed_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "not-mounted").mkdir()
    installation = Installation(
        tmp_path,
        f"127.0.0.1:{free_port()}",
        layers={"source": "directory", "directory": str(tmp_path / "not-mounted")},
    )
    ended = installation.run("backfill", "storage", check=False)
    assert ended.returncode == 1
    assert "the storage failed, run it again to continue" in ended.stdout


@pytest.fixture
def deleting(tmp_path: Path) -> Iterator[tuple[Registry, Installation, Any]]:
    """A registry that notifies a daemon of pushes and deletions, and the daemon's installation."""
    port = free_port()
    endpoint = {
        "url": f"http://127.0.0.1:{port}/v0/event",
        "headers": {"Authorization": ["secret"]},
        "timeout": "5s",
        "backoff": "200ms",
    }
    with start_registry(
        tmp_path / "registry", delete=True, includereferences=True, notifications=[endpoint]
    ) as registry:
        installation = Installation(
            tmp_path,
            registry,
            application={"port": port, "event_authorization": "secret"},
            jobs={"prune": {"interval": 0, "grace": 1}},
        )
        installation.grant("*")

        def answers() -> bool:
            try:
                return requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).ok
            except requests.RequestException:
                return False

        web = installation.process("web", ready=answers, name="web")
        web.start()
        try:
            yield registry, installation, web
        finally:
            web.stop()


def test_a_deleted_layer_is_forgotten_and_found_when_pushed_again(
    deleting: tuple[Registry, Installation, Any],
) -> None:
    registry, installation, _ = deleting
    contents = [layer_bytes(5000, seed) for seed in range(3)]
    image = push_image(registry, "team/app", "v1", contents)
    missing, *others = (layer.digest for layer in image.layers)
    assert comes_true(lambda: installation.json("queue", "status")["waiting_count"] == 3)
    assert installation.last_line("run", "brew").startswith("brewed 3")
    torrent = installation.torrent(missing)
    # Another repository has one of its layers too: deleting it here does not remove it.
    push_image(registry, "team/other", "v1", contents[1:2])

    for digest in (missing, others[0]):
        url = f"{registry.url}/v2/team/app/blobs/{digest}"
        requests.delete(url, timeout=60).raise_for_status()

    def hinted() -> bool:
        with closing(sqlite3.connect(installation.state / "docker_torrents.sqlite")) as database:
            return database.execute("SELECT count(*) FROM rbtorrent_mapping_gone").fetchone() == (2,)

    assert comes_true(hinted)
    dry = installation.last_line("run", "prune", "--dry-run")
    assert dry.startswith("would forget 0, missed for the first time 1, there 2")
    assert installation.last_line("run", "prune").startswith("forgot 0, missed for the first time 1, there 2")
    # The grace period ends.
    assert comes_true(
        lambda: installation.last_line("run", "prune", "--dry-run").startswith("would forget 1")
    )
    assert torrent.exists()
    assert installation.last_line("run", "prune").startswith("forgot 1, missed for the first time 0, there 2")

    assert not torrent.exists()
    unknown = installation.run("show", missing, check=False)
    assert unknown.returncode == 1
    assert {installation.json("show", digest)["state"] for digest in others} == {"brewed"}

    push_image(registry, "team/app", "v1", contents)
    assert comes_true(lambda: installation.json("queue", "status")["waiting_count"] == 1)
    assert installation.last_line("run", "brew").startswith("brewed 1")
    assert torrent.exists()


def test_prune_leaves_everything_while_the_registry_is_down(
    deleting: tuple[Registry, Installation, Any],
) -> None:
    registry, installation, _ = deleting
    push_image(registry, "team/app", "v1", [layer_bytes(5000, 1)])
    assert comes_true(lambda: installation.json("queue", "status")["waiting_count"] == 1)
    installation.run("run", "brew")
    registry.stop()

    ended = installation.run("run", "prune", check=False)

    assert ended.returncode == 1
    assert "unavailable" in ended.stderr
    assert len(json.loads(installation.run("show", layer_digest(5000, 1), "--json").stdout)["scopes"]) == 1


def layer_digest(size: int, seed: int) -> str:
    return str(layer_of(layer_bytes(size, seed)).digest)


def test_a_tracker_serves_layers_brewed_since_its_last_reload(
    tmp_path: Path, registry: Registry, scope: str
) -> None:
    with start_opentracker(tmp_path / "tracker") as tracker:
        job = {
            "file": str(tracker.whitelist),
            "reload_command": ["kill", "-HUP", str(tracker.process.pid)],
        }
        installation = Installation(tmp_path, registry, jobs={"publish-whitelist": job})
        push_image(registry, scope, "v1", [layer_bytes(5000, 1)])
        installation.run("backfill", "repository", scope)
        installation.run("run", "brew")
        info_hash = installation.json("show", layer_digest(5000, 1))["rbtorrent_id"].partition(":")[2]
        assert not tracker.serves(info_hash)

        line = installation.last_line("run", "publish-whitelist")

        assert line == "published 1 info-hashes, changed, tracker reload done"
        assert comes_true(lambda: tracker.serves(info_hash))
        assert not tracker.serves("f" * 40)
        again = installation.last_line("run", "publish-whitelist")
        assert again == "published 1 info-hashes, unchanged, tracker reload not needed"


def test_without_a_file_nothing_is_published(tmp_path: Path, registry: Registry) -> None:
    ended = Installation(tmp_path, registry).run("run", "publish-whitelist", check=False)
    assert ended.returncode == 2
    assert "jobs.publish-whitelist: file is required" in ended.stderr
