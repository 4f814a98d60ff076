"""The whitelist of a tracker: exactly the brewed layers, replaced atomically, and only if it changed."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import jobs.publish_whitelist
from core.errors import LocalFailure
from jobs.publish_whitelist import WhitelistSummary, publish_whitelist
from jobs.summary import was_paused
from tests.integration.sql.database import Database, digest_of, rbtorrent_id_of
from tests.servers.opentracker import start_opentracker
from tests.servers.waiting import comes_true


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "whitelist.txt"


def brew(database: Database, *names: object) -> list[str]:
    """Brew layers, and return their info-hashes."""
    digests = [digest_of(str(name)) for name in names]
    database.enqueue(*digests)
    for claim in database.claim(len(digests)):
        database.complete(claim)
    return [rbtorrent_id_of(digest).partition(":")[2] for digest in digests]


def publish(database: Database, file: Path, *command: str) -> WhitelistSummary:
    return publish_whitelist(database.engine, database.tables, file, command)


def noting(notes: Path, status: int = 0) -> tuple[str, ...]:
    """Return a command that appends a line to a file and exits with this status."""
    return ("sh", "-c", f"echo reloaded >> '{notes}'; exit {status}")


def test_it_has_exactly_the_brewed_layers(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.publish_whitelist, "_BATCH", 7)
    hashes = brew(database, *range(40))
    database.enqueue(digest_of("waiting"))
    by_hand = "INSERT INTO rbtorrent_mapping (digest, rbtorrent_id, added, brewed) VALUES "
    database.execute(f"{by_hand} ('x', 'rbtorrent:by hand', 1, 1), ('y', NULL, 1, 1)")

    summary = publish(database, file)

    assert str(summary) == "published 40 info-hashes, changed, tracker reload not needed"
    lines = file.read_text().splitlines(keepends=True)
    assert sorted(lines) == sorted(f"{one}\n" for one in hashes)


def test_without_brewed_layers_it_is_empty(database: Database, file: Path) -> None:
    assert publish(database, file).changed
    assert file.read_bytes() == b""
    assert not publish(database, file).changed


@pytest.mark.parametrize("what", ["more", "fewer", "others", "cut"])
def test_the_file_is_replaced_only_when_it_changes(
    database: Database, file: Path, tmp_path: Path, what: str
) -> None:
    brew(database, *range(10))
    publish(database, file)
    before = file.stat().st_ino

    same = publish(database, file, *noting(tmp_path / "notes"))
    assert (same.changed, same.hashes, same.reloaded) == (False, 10, False)
    assert file.stat().st_ino == before
    assert not (tmp_path / "notes").exists()

    if what == "more":
        brew(database, "new")
    elif what == "fewer":
        database.execute(f"DELETE FROM rbtorrent_mapping WHERE digest = '{digest_of('3')}'")
    elif what == "others":
        file.write_bytes(file.read_bytes()[::-1])
    else:
        file.write_bytes(file.read_bytes()[:-1])
    other = publish(database, file, *noting(tmp_path / "notes"))
    assert (other.changed, other.reloaded) == (True, True)
    assert not publish(database, file).changed
    assert (tmp_path / "notes").read_text() == "reloaded\n"


def test_a_new_file_can_be_read_by_all_and_an_old_one_keeps_its_mode(database: Database, file: Path) -> None:
    before = os.umask(0o077)
    try:
        publish(database, file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o644
        file.chmod(0o600)
        brew(database, 1)
        publish(database, file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_link_stays_a_link(database: Database, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.txt"
    target.write_text("old\n")
    file.symlink_to(target)
    publish(database, file)
    assert file.is_symlink()
    assert target.read_bytes() == b""


def test_a_tracker_that_missed_a_signal_gets_it_from_the_next_run(
    database: Database, file: Path, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    brew(database, 1)
    first = publish(database, file, *noting(notes, status=1))
    assert str(first) == "published 1 info-hashes, changed, tracker reload failed"
    assert first.failed == 1
    assert was_paused(first)
    second = publish(database, file, *noting(notes))
    assert str(second) == "published 1 info-hashes, unchanged, tracker reload done"
    third = publish(database, file, *noting(notes))
    assert str(third) == "published 1 info-hashes, unchanged, tracker reload not needed"
    assert notes.read_text() == "reloaded\nreloaded\n"


def test_a_missing_or_endless_command_is_a_failure(
    database: Database, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.publish_whitelist, "RELOAD_SECONDS", 0.2)
    assert publish(database, file, "/no/such/command").failed == 1
    assert publish(database, file, "sleep", "60").failed == 1
    monkeypatch.setattr(jobs.publish_whitelist, "RELOAD_SECONDS", 60.0)
    assert publish(database, file, "true").reloaded


def test_an_unwritable_folder_is_reported(database: Database, tmp_path: Path) -> None:
    with pytest.raises(LocalFailure, match=r"whitelist\.txt cannot be written: No such file"):
        publish(database, tmp_path / "no/such/folder/whitelist.txt")


def test_a_concurrent_run_leaves_the_work_to_the_first(database: Database, file: Path) -> None:
    brew(database, 1)
    with file.with_name("whitelist.txt.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert str(publish(database, file)) == "another run is in progress"
        assert not file.exists()
    assert publish(database, file).changed


def test_concurrent_runs_leave_one_complete_file(database: Database, file: Path) -> None:
    hashes = brew(database, *range(50))
    runs = [threading.Thread(target=publish, args=(database, file)) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert sorted(file.read_text().split()) == sorted(hashes)


KILLED_BEFORE = """
import os, signal, sys
from pathlib import Path
import jobs.publish_whitelist as job
from sql.engine import create_engine_for
from sql.tables import build_tables

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

url, file, notes, where = sys.argv[1:]
if where == "the file":
    Path.replace = killed
else:
    job._reload = killed
command = ("sh", "-c", "echo reloaded >> '" + notes + "'")
job.publish_whitelist(create_engine_for(url=url), build_tables(), Path(file), command)
"""


@pytest.mark.parametrize("where", ["the file", "the reload"])
def test_a_killed_run_is_completed_by_the_next(
    database: Database, database_url: str, file: Path, tmp_path: Path, where: str
) -> None:
    hashes = brew(database, *range(3))
    notes = tmp_path / "notes"
    file.write_text("old\n")
    words = [sys.executable, "-c", KILLED_BEFORE, database_url, str(file), str(notes), where]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    assert file.read_text() == "old\n" or sorted(file.read_text().split()) == sorted(hashes)
    assert not notes.exists()

    assert publish(database, file, *noting(notes)).reloaded

    assert sorted(file.read_text().split()) == sorted(hashes)
    assert notes.read_text() == "reloaded\n"


def test_opentracker_serves_brewed_layers_and_refuses_others(database: Database, tmp_path: Path) -> None:
    [early] = brew(database, "early")
    foreign = rbtorrent_id_of("a foreign torrent").partition(":")[2]
    with start_opentracker(tmp_path / "tracker") as tracker:
        reload = ("kill", "-HUP", str(tracker.process.pid))
        assert publish(database, tracker.whitelist, *reload).reloaded
        assert comes_true(lambda: tracker.serves(early))
        assert not tracker.serves(foreign)

        [late] = brew(database, "late")
        assert not tracker.serves(late)
        assert publish(database, tracker.whitelist, *reload).reloaded
        assert comes_true(lambda: tracker.serves(late))
        assert tracker.serves(early)
        assert not tracker.serves(foreign)

        database.execute(f"DELETE FROM rbtorrent_mapping WHERE digest = '{digest_of('early')}'")
        assert publish(database, tracker.whitelist, *reload).reloaded
        assert comes_true(lambda: not tracker.serves(early))
        assert tracker.serves(late)
