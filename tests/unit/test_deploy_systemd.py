"""deploy/systemd: the units are valid and match the commands, the jobs and the default configuration."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from core.command_line import DEFAULT_CONFIG
from core.config.config import Config
from docker_torrents import parse_arguments
from jobs.scheduled_jobs import JOBS
from tests.servers.process import require
from tests.unit.test_crontab import ENTRIES

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
JOB = FOLDER / "docker-torrents-job@.service"
PROGRAM = "/opt/docker-torrents/.venv/bin/docker_torrents"
COMMANDS = {
    "docker-torrents.service": None,
    "docker-torrents-web.service": "web",
    "docker-torrents-scheduler.service": "scheduler",
    "docker-torrents-swarm.service": "swarm",
    "docker-torrents-job@.service": "run",
    "docker-torrents-mirror.service": "mirror",
}


def settings(unit: Path) -> dict[str, str]:
    """Return the last value of each key of a unit."""
    return dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))


def timer(job: str) -> Path:
    return FOLDER / f"docker-torrents-job@{job}.timer"


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [require("systemd-analyze", "systemd"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_each_unit_runs_its_command_with_the_default_configuration() -> None:
    run = {}
    for unit in SERVICES:
        program, *words = shlex.split(settings(unit)["ExecStart"].replace("%i", "brew"))
        arguments = parse_arguments(words)
        assert program == PROGRAM
        assert arguments.config == DEFAULT_CONFIG
        run[unit.name] = arguments.command

    assert run == COMMANDS


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_the_state_directory_is_the_default_one(unit: Path) -> None:
    fields = Config.model_fields
    mirror = unit.name == "docker-torrents-mirror.service"
    folder = fields["mirror"].default.cache_dir if mirror else fields["application"].default.state_dir

    assert f"/var/lib/{settings(unit)['StateDirectory']}" == str(folder)


def test_all_but_the_mirror_run_as_the_user_of_the_crontab() -> None:
    users = {unit.name: settings(unit)["User"] for unit in SERVICES}

    assert users.pop("docker-torrents-mirror.service") == "docker-torrents-mirror"
    assert set(users.values()) == {entry[5] for entry in ENTRIES}


def test_parts_of_the_daemon_conflict_with_it() -> None:
    parts = {unit.name for unit in SERVICES if settings(unit).get("Conflicts") == "docker-torrents.service"}

    assert parts == {"docker-torrents-web.service", "docker-torrents-scheduler.service"}


def test_each_job_has_a_timer_with_the_times_of_the_crontab(tmp_path: Path) -> None:
    assert {path.name for path in FOLDER.glob("*.timer")} == {timer(job).name for job in JOBS}
    for minute, hour, *_, command in ENTRIES:
        [job] = [job for job in JOBS if f"run {job} " in command]
        when = settings(timer(job))["OnCalendar"]
        minute, hour = (f"{int(word):02}" if word != "*" else word for word in (minute, hour))
        assert when in (f"{hour}:{minute}", f"*-*-* {hour}:{minute}"), job
        assert analyze("calendar", when).returncode == 0


@pytest.mark.parametrize("unit", [*SERVICES, *map(timer, JOBS)], ids=lambda unit: unit.name)
def test_systemd_accepts_the_unit(tmp_path: Path, unit: Path) -> None:
    for path in FOLDER.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, sys.executable))
    checked = analyze("verify", "--man=no", tmp_path / unit.name)

    assert [line for line in checked.stderr.splitlines() if "docker-torrents" in line] == []


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_the_unit_is_hardened(unit: Path) -> None:
    checked = analyze("security", "--offline=true", "--threshold=20", "--no-pager", unit)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_a_timer_can_be_enabled(tmp_path: Path) -> None:
    systemctl = require("systemctl", "systemd")
    units = tmp_path / "etc/systemd/system"
    shutil.copytree(FOLDER, units)
    enabled = [timer("brew").name, "docker-torrents.service"]
    command = [systemctl, f"--root={tmp_path}", "enable", *enabled]
    subprocess.run(command, check=True, capture_output=True, timeout=60)

    assert sorted(path.name for path in units.glob("*.wants/*")) == sorted(enabled)
