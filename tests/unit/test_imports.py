"""Each third-party library is imported by its owner alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWNERS = {
    "requests": ["core/http/"],
    "urllib3": ["core/http/"],
    "boto3": ["core/s3.py"],
    "botocore": ["core/s3.py"],
    "torf": ["core/torrents/metainfo.py"],
    "pydantic": ["core/config/", "core/swarm/messages.py"],
    "yaml": ["core/config/", "node/engines/k3s_registries.py"],
    "apscheduler": ["jobs/scheduler.py"],
    "tqdm": ["jobs/progress.py", "node/prefetch.py"],
    "bottle": ["web/", "node/", "docker_torrents.py"],
    "granian": ["core/server.py"],
    "cachetools": ["web/", "node/"],
    "sqlalchemy": ["sql/", "jobs/", "web/", "docker_torrents.py"],
}
FILES = [
    ROOT / "docker_torrents.py",
    *(
        file
        for room in ("core", "sql", "jobs", "web", "node")
        for file in sorted((ROOT / room).rglob("*.py"))
    ),
]


def imported(file: Path) -> set[str]:
    """The top-level names of all packages that `file` imports, for types only or in earnest."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_by_its_owner_alone(library: str) -> None:
    importers = {str(file.relative_to(ROOT)) for file in FILES if library in imported(file)}

    assert importers, f"nobody imports {library}"
    assert {one for one in importers if not one.startswith(tuple(OWNERS[library]))} == set()
