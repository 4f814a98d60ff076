"""The mirror's cache of layers on disk."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from core.digest import Digest
from core.errors import CacheFailed
from node.cache import Cache

MIB = 1 << 20


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def fill(cache: Cache, data: bytes, *, used: float | None = None) -> Digest:
    digest = digest_of(data)
    cache.reserve(digest, len(data)).write_bytes(data)
    cache.commit(digest).close()
    if used is not None:
        os.utime(cache.directory / "verified" / digest.hex, (used, used))
    return digest


@pytest.fixture
def cache(tmp_path: Path):
    with_room = Cache(tmp_path / "cache", 10 * MIB, 0)
    yield with_room
    with_room.close()


def content(cache: Cache, digest: Digest) -> bytes | None:
    layer = cache.open(digest)
    if layer is None:
        return None
    with layer:
        return layer.read(0, layer.size)


def test_a_committed_layer_is_served_and_a_reserved_one_is_not(cache: Cache) -> None:
    data = b"layer" * 1000
    path = cache.reserve(digest_of(data), len(data))
    path.write_bytes(data)
    assert cache.open(digest_of(data)) is None
    for opened in (cache.commit(digest_of(data)), cache.open(digest_of(data))):
        with opened as layer:
            assert (layer.size, layer.read(5, 5), layer.read(len(data), 1)) == (len(data), b"layer", b"")


def test_it_survives_a_restart_with_uses_and_pins(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * MIB, 0)
    old, new = fill(cache, b"old", used=1000.0), fill(cache, b"new", used=2000.0)
    cache.pin(old)
    cache.save_metadata(new, b"note")
    cache.close()
    again = Cache(tmp_path, 10 * MIB, 0)
    assert [(one.digest, one.used, one.pinned) for one in again.entries()] == [
        (old, 1000.0, True),
        (new, 2000.0, False),
    ]
    assert (content(again, new), again.saved_metadata(new), again.saved_metadata(old)) == (
        b"new",
        b"note",
        None,
    )
    again.close()


def test_the_least_recently_used_layer_is_evicted_first(cache: Cache) -> None:
    layers = [fill(cache, bytes([number]) * 3 * MIB) for number in range(3)]
    assert content(cache, layers[0]) is not None  # now the most recently used one
    removed: list[Digest] = []
    cache.on_removed = removed.append
    fill(cache, b"x" * 3 * MIB)
    assert removed == [layers[1]]
    assert [cache.open(layer) is None for layer in layers] == [False, True, False]


def test_open_pinned_or_downloading_layers_are_not_evicted(cache: Cache) -> None:
    opened, pinned = fill(cache, b"o" * 3 * MIB), fill(cache, b"p" * 3 * MIB)
    cache.pin(pinned)
    downloading = digest_of(b"d")
    cache.reserve(downloading, 3 * MIB)
    with cache.open(opened):
        with pytest.raises(CacheFailed, match="in use or pinned"):
            cache.reserve(digest_of(b"y"), 2 * MIB)
        assert not cache.drop(opened)
        assert not cache.drop(downloading)
    cache.reserve(digest_of(b"y"), 2 * MIB)
    assert cache.open(opened) is None
    assert content(cache, pinned) is not None


def test_an_impossible_reservation_evicts_nothing(cache: Cache) -> None:
    kept = fill(cache, b"k" * MIB)
    cache.pin(fill(cache, b"p" * 5 * MIB))
    with pytest.raises(CacheFailed):
        cache.reserve(digest_of(b"n"), 6 * MIB)
    with pytest.raises(CacheFailed, match="larger than the whole cache"):
        cache.reserve(digest_of(b"n"), 11 * MIB)
    assert content(cache, kept) is not None


def test_disk_space_is_kept_free(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * MIB, keep_free=1 << 60)
    with pytest.raises(CacheFailed, match="are kept free"):
        cache.reserve(digest_of(b"n"), 1)
    cache.close()


def test_a_file_that_another_program_changed_is_not_served(cache: Cache) -> None:
    layer = fill(cache, b"right")
    (cache.directory / "layers" / layer.hex).write_bytes(b"wrong")
    assert cache.open(layer) is None
    gone = fill(cache, b"missing")
    (cache.directory / "layers" / gone.hex).unlink()
    assert cache.open(gone) is None


def test_a_part_is_kept_for_the_next_download_and_evicted_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * MIB, 0)
    whole = fill(cache, b"w" * 4 * MIB)
    part = digest_of(b"part")
    cache.reserve(part, 5 * MIB).write_bytes(b"p" * MIB)
    cache.release(part, keep=True)
    cache.close()
    again = Cache(tmp_path, 10 * MIB, 0)
    assert again.open(part) is None
    assert again.reserve(part, 5 * MIB).read_bytes() == b"p" * MIB
    again.release(part, keep=True)
    again.reserve(digest_of(b"n"), 6 * MIB)
    assert not (tmp_path / "layers" / part.hex).exists()
    assert content(again, whole) is not None
    again.close()


def test_one_process_owns_it(cache: Cache) -> None:
    program = (
        "import sys; from pathlib import Path; from node.cache import Cache; Cache(Path(sys.argv[1]), 1, 0)"
    )
    other = subprocess.run([sys.executable, "-c", program, cache.directory], capture_output=True, text=True)
    assert "another process uses it" in other.stderr


def test_after_a_crash_before_the_record_the_layer_is_not_served(tmp_path: Path) -> None:
    program = """
import hashlib, os, sys
from pathlib import Path
from core.digest import Digest
from node.cache import Cache
cache = Cache(Path(sys.argv[1]), 1 << 20, 0)
digest = Digest(hashlib.sha256(b"data").hexdigest())
cache.reserve(digest, 4).write_bytes(b"da\\0\\0")
rename = Path.rename
Path.rename = lambda *_: os.kill(os.getpid(), 9)
cache.commit(digest)
"""
    ended = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True)
    assert ended.returncode == -9
    again = Cache(tmp_path, 1 << 20, 0)
    assert again.entries() == []
    assert again.open(digest_of(b"data")) is None
    assert list((tmp_path / "verified").iterdir()) == []
    again.close()


def test_a_smaller_cache_after_a_restart_evicts_at_once(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10 * MIB, 0)
    fill(cache, b"a" * MIB, used=1000.0)
    newest = fill(cache, b"b" * MIB, used=2000.0)
    cache.close()
    again = Cache(tmp_path, MIB, 0)
    assert [one.digest for one in again.entries()] == [newest]
    again.close()


def test_only_the_owner_may_read_the_files(cache: Cache) -> None:
    layer = fill(cache, b"private")
    cache.save_metadata(layer, b"capability")
    cache.pin(layer)
    for path in [cache.directory, *cache.directory.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_the_error_names_an_unusable_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheFailed, match=str(tmp_path / "file")):
        Cache(tmp_path / "file", 1, 0)


def test_dropping_a_layer_removes_its_record_and_pin(cache: Cache) -> None:
    layer = fill(cache, b"data")
    cache.pin(layer)
    cache.save_metadata(layer, b"note")
    removed: list[Digest] = []
    cache.on_removed = removed.append
    assert cache.drop(layer)
    assert not cache.drop(layer)
    assert (removed, cache.open(layer), cache.saved_metadata(layer)) == ([layer], None, None)
    assert not list(cache.directory.rglob(layer.hex))


def test_eviction_order_survives_a_clock_that_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (bytes([number]) * (4 * MIB) for number in range(3))
    with closing(Cache(tmp_path, 8 * MIB, 0)) as cache:
        fill(cache, first)
        hour_ago = time.time() - 3600
        monkeypatch.setattr("node.cache.time.time", lambda: hour_ago)
        fill(cache, second)
    with closing(Cache(tmp_path, 8 * MIB, 0)) as cache:
        fill(cache, third)
        assert [entry.digest for entry in cache.entries()] == [digest_of(second), digest_of(third)]


def test_a_directory_that_could_not_be_read_at_first_is_read_by_the_next_check(cache: Cache) -> None:
    lost, removed = fill(cache, b"lost"), []
    cache.on_removed = removed.append
    cache.directory.rename(cache.directory.with_name("away"))
    obstacle = cache.directory / "notes" / f"{lost.hex}.new"
    obstacle.mkdir(parents=True)
    with pytest.raises(CacheFailed):
        cache.check()
    assert removed == []
    obstacle.rmdir()
    cache.check()
    assert removed == [lost]
    assert cache.entries() == []
    assert content(cache, fill(cache, b"new")) == b"new"


def test_a_layer_that_is_read_is_lost_with_its_directory(cache: Cache) -> None:
    layer, removed = fill(cache, b"data"), []
    cache.on_removed = removed.append
    with cache.open(layer) as reader:
        cache.directory.rename(cache.directory.with_name("away"))
        cache.directory.mkdir()
        cache.check()
        assert cache.entries() == []
        assert removed == [layer]
        assert reader.read(0, 4) == b"data"
    assert fill(cache, b"data") == layer
    assert content(cache, layer) == b"data"


def test_a_damaged_layer_is_no_longer_served_and_stays_pinned(cache: Cache) -> None:
    layer = fill(cache, b"data")
    cache.pin(layer)
    with cache.open(layer) as reader:
        cache.mark_damaged(layer)
        assert reader.read(0, 4) == b"data"
    assert cache.open(layer) is None
    cache.close()
    again = Cache(cache.directory, 10 * MIB, 0)
    assert again.open(layer) is None
    assert again.reserve(layer, 4).read_bytes() == b"data"
    again.commit(layer).close()
    assert [(entry.digest, entry.pinned) for entry in again.entries()] == [(layer, True)]
    again.close()
