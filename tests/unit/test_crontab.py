"""crontab.example is valid and runs existing jobs."""

from __future__ import annotations

import re
from pathlib import Path

from docker_torrents import parse_arguments
from jobs.cron import cron_trigger
from jobs.scheduled_jobs import JOBS

LINES = (Path(__file__).resolve().parents[2] / "crontab.example").read_text().splitlines()
ENTRIES = [line.split(None, 6) for line in LINES if re.match(r"[*0-9]", line)]
# Entries that are commented out until their settings are made.
OFF = [line.removeprefix("# ").split(None, 6) for line in LINES if re.match(r"# [*0-9]", line)]


def test_every_line_is_a_setting_a_comment_or_an_entry() -> None:
    for line in LINES:
        assert (
            not line
            or line.startswith("#")
            or re.match(r"[A-Z]+=\S+$", line)
            or len(line.split(None, 6)) == 7
        )


def test_times_are_valid() -> None:
    for entry in ENTRIES:
        assert cron_trigger(" ".join(entry[:5]))


def test_commands_exist_and_every_job_is_run() -> None:
    ran = []
    for entry in ENTRIES + OFF:
        command, _, log = entry[6].partition(" 2>&1 | ")
        assert log == "logger -t docker-torrents"
        flock, nonblock, lock, program, *words = command.split()
        assert (flock, nonblock, program) == ("flock", "--nonblock", "docker_torrents")
        assert lock == f"/run/lock/docker-torrents-{words[-1]}"
        ran.append(parse_arguments(words).job)

    assert sorted(ran) == sorted(JOBS)
    assert [job for entry in OFF for job in JOBS if f"run {job} " in entry[6]] == ["publish-whitelist"]
