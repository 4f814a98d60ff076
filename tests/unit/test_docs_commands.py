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
    """Return the commands of the program in shell lines, also behind `kubectl exec … --` and the like."""
    text = page.read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    # Indented blocks in lists, too.
    lines = [line.strip() for block in blocks for line in block.splitlines()]
    found = [re.search(r"(?:^|[ /])(docker_torrents( .*)?)$", line) for line in lines if line[:3] != "ln "]
    return [match[1] for match in found if match]


COMMANDS = [pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in shown(page)]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_documented_command_is_valid(line: str) -> None:
    words = shlex.split(line.partition("|")[0], comments=True)

    assert parse_arguments(words[1:])


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_within_the_project_exist(page: Path) -> None:
    text = page.read_text()
    for target, section in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if not target.startswith(("http://", "https://")):
            other = page.parent / target if target else page
            assert other.exists(), f"{page.name} links to {target}"
            assert not section or section in sections(other), f"{page.name} links to {target}#{section}"
    for picture in re.findall(r'(?:src|srcset)="([^"]+)"', text):
        assert (page.parent / picture).is_file(), f"{page.name} shows {picture}"


def sections(page: Path) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"(?s)```.*?```", "", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


DEPLOY = [path for path in sorted((ROOT / "deploy").rglob("*")) if path.is_file()]


@pytest.mark.parametrize("file", DEPLOY, ids=lambda file: file.name)
def test_sections_of_the_docs_named_in_deploy_exist(file: Path) -> None:
    text = " ".join(re.sub(r"^#", "", file.read_text(), flags=re.MULTILINE).split())

    for page, section in re.findall(r"(docs/[\w/]+\.md), section ([A-Z]\w+)", text):
        assert section.lower() in sections(ROOT / page), f"{file.name}: {page}, section {section}"


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
