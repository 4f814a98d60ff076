"""Output of commands: a closed pipe, a full disk, a terminal without `…`; Ctrl-C."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.installation import PROGRAM, Installation
from tests.servers.bad_http import silent
from tests.servers.http_server import start_http_server
from tests.servers.process import bound_to_parent, child_environment, free_port
from tests.servers.waiting import comes_true


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    installation = Installation(tmp_path, f"127.0.0.1:{free_port()}")
    installation.init_db()
    return installation


def into(output: int, installation: Installation, *words: str, **environment: str) -> tuple[int, str]:
    """Run a command with standard output to this descriptor; return its status and standard error."""
    ended = subprocess.run(
        bound_to_parent([PROGRAM, "-c", installation.config, *words]),
        env={**child_environment(), **environment},
        stdout=output,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stderr


@pytest.mark.parametrize("words", [("queue", "status"), ("run", "release-locks"), ("role", "list", "--json")])
def test_a_closed_pipe_is_not_a_failure(installation: Installation, words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        status, errors = into(writing, installation, *words)
    finally:
        os.close(writing)

    assert (status, errors) == (0, "")


def test_a_full_disk_is_reported(installation: Installation) -> None:
    with open("/dev/full", "wb") as full:
        status, errors = into(full.fileno(), installation, "queue", "status")

    assert (status, errors) == (1, "docker_torrents: standard output: No space left on device\n")


def test_characters_that_the_encoding_lacks_are_question_marks(
    installation: Installation, tmp_path: Path
) -> None:
    database = sqlite3.connect(installation.state / "docker_torrents.sqlite")
    with database:
        database.execute(
            "INSERT INTO rbtorrent_mapping_queue (digest, priority, added, reason) "
            "VALUES ('sha256:x', 1, 1, ?)",
            (f"no blob sha256:{'0' * 64}",),
        )
    database.close()

    with (tmp_path / "output").open("wb") as output:
        status, errors = into(output.fileno(), installation, "queue", "status", PYTHONIOENCODING="ascii")

    assert (status, errors) == (0, "")
    assert "no blob sha256:?" in (tmp_path / "output").read_text()


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Installation]:
    """An installation whose registry never answers."""
    with start_http_server() as server:
        server.on("*", silent())
        yield Installation(tmp_path, server.netloc)


def test_ctrl_c_ends_a_check_at_once(hanging: Installation) -> None:
    log = hanging.folder / "program.log"
    with hanging.process("check") as check:
        assert comes_true(lambda: "database" in log.read_text())

        check.send_signal(signal.SIGINT)

        assert check.exit_status() == -signal.SIGINT
    assert "Traceback" not in log.read_text()


def test_the_first_ctrl_c_explains_the_second(hanging: Installation) -> None:
    log = hanging.folder / "program.log"
    with hanging.process("backfill", "repository", "library/ubuntu") as walk:
        assert comes_true(lambda: "database prepared" in log.read_text())

        walk.send_signal(signal.SIGINT)

        assert comes_true(lambda: "stopping; press Ctrl-C again to quit at once" in log.read_text())
        walk.send_signal(signal.SIGINT)
        assert walk.exit_status() == -signal.SIGINT


def test_torrents_without_any_source_cause_a_warning(tmp_path: Path) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    bare = Installation(tmp_path / "bare", nowhere)
    useful = Installation(tmp_path / "useful", nowhere, torrents={"trackers": ["udp://tracker:1"]})

    assert "neither tracker nor web seed" in bare.run("check", check=False).stderr
    assert "neither tracker nor web seed" not in useful.run("check", check=False).stderr
