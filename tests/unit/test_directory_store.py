"""The directory store: files are complete or absent, despite crashes, failed writes and concurrency."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.digest import Digest
from core.errors import MetainfoMissing, StoreFailed
from core.torrents.store import LEFTOVER_AGE, DirectoryStore

DIGEST = Digest("ab" * 32)
DATA = b"d4:infodee" * 100


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "metainfo"


def files_in(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def run_writer(code: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run Python `code` in a separate process, with `store` on `root`, DIGEST and DATA."""
    setup = f"""
import os, resource, signal
from pathlib import Path
from core.digest import Digest
from core.torrents.store import DirectoryStore
store, DIGEST, DATA = DirectoryStore(Path({str(root)!r})), Digest("ab" * 32), {DATA!r}
"""
    return subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, timeout=60)


def test_a_layers_metainfo_is_a_file_named_after_it(root: Path) -> None:
    DirectoryStore(root).put(DIGEST, DATA)
    assert files_in(root) == [f"ab/{DIGEST.hex}.torrent"]
    assert (root / "ab" / f"{DIGEST.hex}.torrent").read_bytes() == DATA


def test_the_umask_decides_whether_other_users_may_read_it(root: Path) -> None:
    before = os.umask(0o027)
    try:
        DirectoryStore(root).put(DIGEST, DATA)
    finally:
        os.umask(before)
    assert (root / "ab" / f"{DIGEST.hex}.torrent").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_killed_writer_leaves_nothing_under_the_layers_name(root: Path, call: str) -> None:
    killed = run_writer(
        f"os.{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\nstore.put(DIGEST, DATA)", root
    )
    assert killed.returncode == -signal.SIGKILL
    with pytest.raises(MetainfoMissing):
        DirectoryStore(root).get(DIGEST)
    DirectoryStore(root).put(DIGEST, DATA)
    assert DirectoryStore(root).get(DIGEST) == DATA


def test_files_of_killed_writers_are_removed_once_they_are_old(root: Path) -> None:
    incoming = root / "incoming"
    incoming.mkdir(parents=True)
    long_ago = time.time() - LEFTOVER_AGE - 10
    for name in ("left by the killed", "being written"):
        (incoming / name).write_bytes(b"d4:inf")
    os.utime(incoming / "left by the killed", (long_ago, long_ago))
    DirectoryStore(root).put(DIGEST, DATA)
    assert files_in(root) == [f"ab/{DIGEST.hex}.torrent", "incoming/being written"]


def test_a_failed_write_reports_the_reason_and_leaves_no_part(root: Path) -> None:
    DirectoryStore(root).put(DIGEST, DATA)
    ended = run_writer(
        """
from core.errors import StoreFailed
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
try:
    store.put(DIGEST, b"x" * 501)
except StoreFailed as error:
    print(error)
""",
        root,
    )
    assert ended.stdout == f"metainfo store {root} failed: File too large\n", ended.stderr
    assert files_in(root) == [f"ab/{DIGEST.hex}.torrent"]
    assert DirectoryStore(root).get(DIGEST) == DATA


def test_a_folder_removed_under_a_running_store_is_created_again(root: Path) -> None:
    store = DirectoryStore(root)
    store.put(DIGEST, DATA)
    for folder in (root / "ab", root):
        folder.rename(f"{folder}.moved away")
        store.put(DIGEST, DATA)
        assert store.get(DIGEST) == DATA


def test_a_path_that_cannot_be_a_directory_is_a_failure_of_the_store(root: Path) -> None:
    root.write_text("a file")
    store = DirectoryStore(root)
    for call in (lambda: store.put(DIGEST, DATA), lambda: store.get(DIGEST), store.check):
        with pytest.raises(StoreFailed, match=str(root)):
            call()


def test_a_check_reports_the_free_space_and_leaves_no_file(root: Path) -> None:
    assert "GiB free" in DirectoryStore(root).check()
    assert files_in(root) == []


def test_a_reader_never_sees_a_part(root: Path) -> None:
    versions = [bytes([number]) * 1_000_000 for number in range(2)]
    DirectoryStore(root).put(DIGEST, versions[0])
    over = threading.Event()

    def write(store: DirectoryStore) -> None:
        for number in range(50):
            store.put(DIGEST, versions[number % 2])

    def read(store: DirectoryStore) -> bool:
        whole = True
        while not over.is_set():
            whole &= store.get(DIGEST) in versions
        return whole

    with ThreadPoolExecutor(4) as pool:
        reading = [pool.submit(read, DirectoryStore(root)) for _ in range(2)]
        shared = DirectoryStore(root)
        try:
            for writing in [pool.submit(write, shared) for _ in range(2)]:
                writing.result()
        finally:
            over.set()
        assert all(future.result() for future in reading)
