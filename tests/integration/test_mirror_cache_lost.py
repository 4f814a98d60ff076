"""Pulls through a mirror whose cache directory cannot be used for a while."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mirror_app import TestedMirror, mirror_of
from tests.servers.layers import layer_bytes
from tests.servers.push import push_blob
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true

SIZE = 200_000


@contextmanager
def read_only(folder: Path) -> Iterator[str]:
    if os.geteuid():
        pytest.skip("mounting a file system needs root")
    if subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True).returncode:
        pytest.skip("no permission to mount a file system")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
        yield "it is read-only"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def vanished(folder: Path) -> Iterator[str]:
    away = folder.rename(folder.with_name("away"))
    folder.touch()
    yield "it is not a directory"
    folder.unlink()
    away.rename(folder)


@contextmanager
def emptied(folder: Path) -> Iterator[None]:
    away = folder.rename(folder.with_name("away"))
    folder.mkdir()
    yield
    folder.rename(folder.with_name("empty"))
    away.rename(folder)


def path_of(registry: Registry, scope: str, seed: int) -> tuple[str, bytes]:
    content = layer_bytes(SIZE, seed=hash(scope) + seed)
    return f"/v2/{scope}/blobs/{push_blob(registry, scope, content).digest}", content


def is_cached(mirror: TestedMirror, path: str) -> bool:
    return any(str(entry.digest) == path.rpartition("/")[2] for entry in mirror.node.cache.entries())


@pytest.mark.parametrize("broken", [read_only, vanished])
def test_a_cache_that_cannot_be_used_costs_no_pull_and_recovers(
    registry: Registry, tmp_path: Path, scope: str, broken: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    first, first_content = path_of(registry, scope, 1)
    second, second_content = path_of(registry, scope, 2)
    with mirror_of(registry.netloc, tmp_path) as mirror:
        assert mirror.get(first).body == first_content
        assert comes_true(lambda: is_cached(mirror, first))
        with broken(tmp_path / "cache") as reason:  # type: ignore[operator]
            for _ in range(2):
                assert mirror.get(second).body == second_content
                assert mirror.get(first).body == first_content
            health = mirror.get("/healthz")
            assert health.status == 200
            assert reason in health.body.decode()
            assert mirror.ask("PUT", f"/v0/mirror/pins/{first.rpartition('/')[2]}").status == 503
            assert not is_cached(mirror, second)
        failed = [record for record in caplog.records if record.getMessage().startswith("cache failed")]
        assert len(failed) == 1
        assert reason in failed[0].getMessage()
        for path, content in ((first, first_content), (second, second_content)):
            assert mirror.get(path).body == content
            assert comes_true(lambda path=path: is_cached(mirror, path))
        assert "cache works again" in caplog.text


def test_a_cache_on_a_disk_that_was_unmounted_goes_on_and_finds_its_layers_again(
    registry: Registry, tmp_path: Path, scope: str
) -> None:
    first, first_content = path_of(registry, scope, 1)
    second, second_content = path_of(registry, scope, 2)
    cache = tmp_path / "cache"
    with mirror_of(registry.netloc, tmp_path) as mirror:
        assert mirror.get(first).body == first_content
        assert comes_true(lambda: is_cached(mirror, first))
        with emptied(cache):
            assert mirror.get(second).body == second_content
            assert comes_true(lambda: is_cached(mirror, second))
            assert not is_cached(mirror, first)
            owned = (cache / "lock").stat().st_ino
        mirror.node.cache.check()
        assert is_cached(mirror, first)
        assert not is_cached(mirror, second)
        assert (cache / "lock").stat().st_ino != owned
        assert mirror.get(first).body == first_content
