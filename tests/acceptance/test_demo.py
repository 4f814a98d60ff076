"""`make demo`, run as a user would."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from tests.servers.process import child_environment, require
from tests.servers.waiting import comes_true

ROOT = Path(__file__).parents[2]
ID = r"rbtorrent:[0-9a-f]{40}"


def marked(mark: str) -> list[str]:
    """Return the processes with this in their environment, which children inherit."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("DEMO_MARK") == mark:
                found.append(f"{process.pid} {process.name()}")
        except psutil.Error:
            continue
    return found


@pytest.mark.timeout(900)
def test_the_demo_runs_completely_and_leaves_nothing_behind(tmp_path: Path) -> None:
    for binary, package in (("docker-registry", "docker-registry"), ("aria2c", "aria2")):
        require(binary, package)
    mark = uuid.uuid4().hex
    ended = subprocess.run(
        [sys.executable, "-m", "demo"],
        cwd=ROOT,
        env=child_environment({"DEMO_MARK": mark, "TMPDIR": str(tmp_path)}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )

    assert ended.returncode == 0, ended.stdout + ended.stderr
    said = ended.stdout
    first, _, rest = said.partition("\n== 2. ")
    second, _, third = rest.partition("\n== 3. ")
    assert "checked 4, failed 0" in first
    assert re.search(r"^queued 3 layers", first, re.MULTILINE)
    assert "brewed 3, failed 0, waiting 0" in first
    table = re.findall(rf"^sha256:[0-9a-f]{{12}}… +\d+ +\d+  ({ID}) +\d+$", first, re.MULTILINE)
    shown = re.findall(rf"^sha256:[0-9a-f]{{64}} +\d+  ({ID})$", first, re.MULTILINE)
    assert len(table) == 3
    assert set(table) == set(shown)
    assert re.search(r"brewed 3 of 3 layers, (\d+) of \1 bytes \(100.0 %\)$", first, re.MULTILINE)

    manifest = json.loads(second[second.index("\n{") : second.index("\n}") + 2])
    assert len(manifest["layers"]) == 3
    assert all(re.fullmatch(ID, layer["rbtorrent_id"]) for layer in manifest["layers"])
    for part in (first, second):
        assert len(re.findall(r"^-- \d+ bytes downloaded, their SHA-256 is", part, re.MULTILINE)) == 1
    received = re.findall(r"^(first|second) +([0-9.]+) MB +([0-9.]+) MB +([0-9.]+) MB$", third, re.MULTILINE)
    [(_, *by_first), (_, *by_second)] = received
    assert float(by_first[0]) == 0
    assert float(by_second[0]) > 20
    assert said.splitlines()[-1] == "-- done, nothing is still running"

    # A killed process may take a moment to disappear.
    assert comes_true(lambda: not marked(mark)), marked(mark)
    assert list(tmp_path.iterdir()) == []


def test_a_process_of_the_demo_would_be_found() -> None:
    mark = uuid.uuid4().hex
    with subprocess.Popen(["sleep", "100"], env={"DEMO_MARK": mark, "PATH": "/usr/bin:/bin"}) as left:
        try:
            assert comes_true(lambda: marked(mark) == [f"{left.pid} sleep"])
        finally:
            left.kill()
