"""The directory store, brewing, the database and metrics on a full or read-only file system."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.digest import Digest
from core.errors import DatabaseDown, MetainfoMissing, StoreFailed
from core.layer import Layer
from core.metrics_files import create_directory, remove_directory
from core.torrents.brewing import brew_layer
from core.torrents.store import DirectoryStore
from docker_torrents import web_app
from sql.engine import create_engine_for
from sql.schema import create_missing, probe_writable
from sql.tables import build_tables
from sql.transaction import reading, transaction
from tests.installation import Installation
from tests.memory_source import MemorySource
from tests.metrics import shows
from tests.servers.layers import layer_bytes
from tests.servers.process import free_port, listening
from tests.servers.push import push_image
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true
from tests.wsgi import call

CONTENT = b"a layer whose metainfo finds no room" * 40_000
DIGEST = Digest(hashlib.sha256(CONTENT).hexdigest())


@contextmanager
def small_disk(folder: Path, size: str = "256k") -> Iterator[Path]:
    """Mount a file system of this size at `folder`; skip the test if this user may not."""
    if os.geteuid():
        pytest.skip("mounting a file system needs root")
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"no permission to mount a file system: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Create a file that takes all remaining space."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def files_in(root: Path) -> list[str]:
    return [path.name for path in root.rglob("*") if path.is_file()]


def brew(store: DirectoryStore) -> str:
    source = MemorySource({DIGEST: CONTENT})
    stop = threading.Event()
    brewed = brew_layer(source, store, Layer(DIGEST), private=True, connections=1, interrupted=stop.is_set)
    return brewed.rbtorrent_id


def test_on_a_full_disk_the_layer_is_retried_later_and_no_part_is_left(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = DirectoryStore(disk / "metainfo")
        store.check()
        filler = fill(disk)
        with pytest.raises(StoreFailed, match="No space left on device") as caught:
            brew(store)
        assert not caught.value.permanent
        assert files_in(disk / "metainfo") == []
        with pytest.raises(MetainfoMissing):
            store.get(DIGEST)
        filler.unlink()
        rbtorrent_id = brew(store)
        assert rbtorrent_id.removeprefix("rbtorrent:") == info_hash(store.get(DIGEST))


def test_a_full_disk_does_not_change_stored_metainfo(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = DirectoryStore(disk / "metainfo")
        store.put(DIGEST, b"kept before")
        fill(disk)
        with pytest.raises(StoreFailed):
            store.put(DIGEST, bytes(100_000))
        assert store.get(DIGEST) == b"kept before"


def test_the_check_reports_a_read_only_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        store = DirectoryStore(disk / "metainfo")
        store.put(DIGEST, b"kept before")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(StoreFailed, match="Read-only file system"):
            store.check()
        assert store.get(DIGEST) == b"kept before"


def test_a_disk_without_room_for_metainfo_is_reported_until_brewing_goes_on(
    tmp_path: Path, registry: Registry, scope: str
) -> None:
    port = free_port()
    with small_disk(tmp_path / "disk") as disk:
        installation = Installation(
            tmp_path / "installation",
            registry,
            application={"metrics_port": port},
            torrents={"directory": str(disk / "metainfo")},
            brewer={"sleep_time": 1},
        )
        push_image(registry, scope, "v1", [layer_bytes(1000, 1)])
        installation.run("backfill", "repository", scope)
        filler = fill(disk)
        scheduler = installation.process("scheduler", ready=listening(port))
        scheduler.start()
        try:
            assert comes_true(shows(port, lambda now: now.value("brews_total", outcome="returned") > 0))
            found: dict[str, Any] = {}
            assert comes_true(lambda: found.update(health(installation)) or "job brew" in degraded(found))
            assert "No space left on device" in found["parts"]["job brew"]["reason"]
            filler.unlink()
            assert comes_true(shows(port, lambda now: now.value("brews_total", outcome="brewed") == 1))
            assert comes_true(lambda: health(installation)["status"] == "ok")
        finally:
            scheduler.stop()


def degraded(health: dict[str, Any]) -> list[str]:
    """Return the failed parts of an answer that is `degraded`."""
    parts = health["parts"] if health["status"] == "degraded" else {}
    return [name for name, part in parts.items() if part["status"] == "failed"]


def health(installation: Installation) -> Any:
    """Return the answer of `/healthz`."""
    with installation.service() as service:
        app = web_app(service)
        answer = call(app, "GET", "/healthz")
        app.close()
    return json.loads(answer.body)


def info_hash(data: bytes) -> str:
    """Return the SHA-1 of the info dictionary, at its known position in `data`."""
    assert data.startswith(b"d4:info")
    return hashlib.sha1(data[7:-1]).hexdigest()


def test_a_readable_database_on_a_full_disk_counts_as_down(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", size="2m") as disk:
        engine = create_engine_for(file=disk / "queue.sqlite")
        tables = build_tables()
        with transaction(engine) as connection:
            create_missing(connection, tables)
        with reading(engine) as connection:
            probe_writable(connection, tables)
        filler = fill(disk)

        with (
            reading(engine) as connection,
            pytest.raises(DatabaseDown, match="left on its disk: free some space"),
        ):
            probe_writable(connection, tables)

        filler.unlink()
        with reading(engine) as connection:
            probe_writable(connection, tables)
        engine.dispose()


def test_metrics_are_not_kept_in_a_shm_that_is_too_small(tmp_path: Path) -> None:
    link = tmp_path / "metrics"
    for size, expected in (("256k", tmp_path), ("16m", tmp_path / "16m")):
        with small_disk(tmp_path / size, size=size) as memory:
            create_directory(link, memory)

            assert link.resolve().parent == expected
            remove_directory(link)
            assert list(memory.iterdir()) == []
