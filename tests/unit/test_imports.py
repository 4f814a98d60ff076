"""Each third-party library is imported only by its owner, and used through its documented interface."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
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
    "yaml": ["core/config/"],
    "apscheduler": ["jobs/cron.py", "jobs/scheduler.py"],
    "tqdm": ["jobs/progress.py", "node/prefetch.py"],
    "bottle": ["web/", "node/", "docker_torrents.py"],
    "granian": ["core/server.py"],
    "cachetools": ["core/access/", "core/blobs/", "core/registry/", "web/", "node/"],
    "libtorrent": ["node/session.py", "node/metainfo.py"],
    "prometheus_client": ["core/metrics.py", "node/"],
    "sqlalchemy": ["sql/", "jobs/", "web/"],
}
BASES = {
    "apscheduler.triggers.base.BaseTrigger",
    "prometheus_client.registry.Collector",
    "pydantic.BaseModel",
}
"""Classes of libraries that their documentation says to derive from."""
OURS = {"core", "jobs", "node", "sql", "web", "docker_torrents"}
OTHERS = {*OURS, *sys.stdlib_module_names, "_typeshed"}
FILES = [
    ROOT / "docker_torrents.py",
    *(
        file
        for room in ("core", "sql", "jobs", "web", "node")
        for file in sorted((ROOT / room).rglob("*.py"))
    ),
]


def imported(file: Path) -> set[str]:
    """Return the top-level names of all packages that `file` imports, including those for types only."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("library", OWNERS)
def test_a_library_is_imported_only_by_its_owner(library: str) -> None:
    importers = {str(file.relative_to(ROOT)) for file in FILES if library in imported(file)}

    assert importers, f"{library} is not imported"
    assert {one for one in importers if not one.startswith(tuple(OWNERS[library]))} == set()


def full_names(tree: ast.Module) -> dict[str, str]:
    """Return the full name of each imported name of a module."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {name: full for name, full in names.items() if full.partition(".")[0] not in OTHERS}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_libraries_are_used_through_their_documented_interface(file: Path) -> None:
    tree = ast.parse(file.read_text())
    names = full_names(tree)
    private = {full for full in names.values() if any(part.startswith("_") for part in full.split("."))}
    bases, patched = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                first, _, rest = ast.unparse(base).partition("[")[0].partition(".")
                if first in names:
                    bases.add(f"{names[first]}.{rest}" if rest else names[first])
        elif isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Attribute) and ast.unparse(target).partition(".")[0] in names:
                    patched.add(ast.unparse(target))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr"):
            private |= {
                ast.unparse(node)
                for name in node.args[1:2]
                if isinstance(name, ast.Constant) and str(name.value).startswith("_")
            }

    assert (private, bases - BASES, patched) == (set(), set(), set())


CONFIG = "docker_registry: {host: 127.0.0.1:1, proto: http}\napplication: {state_dir: state}\n"
OF_ALL = {"pydantic", "yaml"}
RUN = """
import json, sys
from contextlib import redirect_stdout
import docker_torrents
with redirect_stdout(sys.stderr):
    try:
        docker_torrents.main(sys.argv[1:])
    except SystemExit:
        pass
print(json.dumps([*sys.modules]))
"""


@pytest.mark.parametrize(
    ("words", "libraries"),
    [
        ("--help", set()),
        ("mirror configure --print --engine docker", set()),
        ("mirror status", {"requests", "urllib3"}),
        ("role list", {"sqlalchemy"}),
        ("run brew", {"sqlalchemy", "requests", "urllib3", "cachetools", "torf"}),
    ],
)
def test_a_command_imports_only_the_libraries_that_it_needs(
    words: str, libraries: set[str], tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)

    ended = subprocess.run(
        [sys.executable, "-c", RUN, "-c", f"{tmp_path}/config.yaml", *words.split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert OWNERS.keys() & set(json.loads(ended.stdout)) == OF_ALL | libraries, ended.stderr
