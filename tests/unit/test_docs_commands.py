"""Every docker_torrents command in the documentation is valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from docker_torrents import parse_arguments

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def shown(page: Path) -> list[str]:
    """Yield the shell lines that start with the program, and `docker_torrents …` in prose."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    # Indented blocks in lists, too.
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith("docker_torrents")]


COMMANDS = [pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in shown(page)]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_documented_command_is_valid(line: str) -> None:
    words = shlex.split(line.partition("|")[0], comments=True)

    assert parse_arguments(words[1:])


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_project_exist(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())

    for target in targets:
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_deploy_in_commands_exist(page: Path) -> None:
    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for path in re.findall(r"(?<![/\w])deploy/[\w./@*-]+[\w*]", block):
            assert list(ROOT.glob(path)) or path.startswith("deploy/docker-torrents-"), f"{page.name}: {path}"


def test_files_named_in_the_map_of_the_code_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = set(re.findall(r"\b((?:core|jobs|node|sql|web)/[a-z0-9_/]*(?:\.py)?)", text))

    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
