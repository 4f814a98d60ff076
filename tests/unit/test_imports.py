"""Each third-party library is imported only by its owner, and used through its documented interface."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OWNERS = {
    "requests": ["core/http/"],
    "urllib3": ["core/http/"],
    "boto3": ["core/s3.py"],
    "botocore": ["core/s3.py"],
    "mypy_boto3_s3": ["core/s3.py"],
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
    "psycopg2": ["sql/"],
    "sqlalchemy": ["sql/", "jobs/", "web/"],
}
BASES = {
    "apscheduler.triggers.base.BaseTrigger",
    "prometheus_client.registry.Collector",
    "pydantic.BaseModel",
}
"""Classes of libraries that their documentation says to derive from."""
UNDOCUMENTED = [
    # bottle adds a Content-Type, and a Content-Length, to an answer without them.
    ("bottle", r"\.headers\.dict\b", {"node/": 1, "web/": 1}),
    # bottle decodes paths as UTF-8, and drops other bytes.
    ("bottle", r"bottle\.raw_path", {"node/": 1, "web/": 1}),
    # granian documents no call that stops a server. docker_torrents.py looks at Python's own handler of SIGINT.
    ("granian", r"\bgetsignal\(", {"core/server.py": 1, "docker_torrents.py": 1}),
    # Closing a StreamingBody would wait for its reader.
    ("botocore", r"_response\.shutdown\(", {"core/s3.py": 1}),
    # Its `collect` fails if a file of values is still empty, or is renamed meanwhile.
    ("prometheus_client", r"MultiProcessCollector\.merge\(", {"core/metrics.py": 1}),
    # Its files, named by the ids of processes, are kept for ever unless those of dead ones are taken over.
    ("prometheus_client", r"\.db['\"]", {"core/metrics_files.py": 3}),
    # Filled in by hand: `prepare` costs more than the rest of a small request.
    ("requests", r"\bPreparedRequest\(", {"core/http/client.py": 1}),
]
"""Uses of libraries beyond their documentation (docs/decisions/stock-parts.md has the reasons and their tests): a
pattern of the code, and how often it may occur where."""
OURS = {"core", "jobs", "node", "sql", "web", "docker_torrents"}
OTHERS = {*OURS, *sys.stdlib_module_names, "_typeshed"}
TOOLS = {"bench", "demo", "tests"}


def python_files(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


FILES = [ROOT / "docker_torrents.py", *python_files("core", "sql", "jobs", "web", "node")]


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


def test_every_library_has_an_owner() -> None:
    libraries = {name for file in FILES for name in imported(file)} - OTHERS

    assert libraries - OWNERS.keys() == set()


def full_names(tree: ast.Module) -> dict[str, str]:
    """Return the full name of each imported name of a module."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0]: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return {name: full for name, full in names.items() if full.partition(".")[0] not in OTHERS | TOOLS}


def misuse(source: str) -> tuple[set[str], set[str], set[str]]:
    """Return the private names of libraries that are used, the classes derived from, and what is patched."""
    tree = ast.parse(source)
    names = full_names(tree)
    private = {full for full in names.values() if any(part.startswith("_") for part in full.split("."))}
    bases, patched = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                first, _, rest = ast.unparse(base).partition("[")[0].partition(".")
                if first in names:
                    bases.add(f"{names[first]}.{rest}" if rest else names[first])
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            if ast.unparse(node).partition(".")[0] in names:
                patched.add(ast.unparse(node))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "delattr"):
            if ast.unparse(node.func) != "getattr" and ast.unparse(node.args[0]).partition(".")[0] in names:
                patched.add(ast.unparse(node))
            private |= {
                ast.unparse(node)
                for name in node.args[1:2]
                if isinstance(name, ast.Constant) and str(name.value).startswith("_")
            }
    return private, bases - BASES, patched


@pytest.mark.parametrize(
    "file", [*FILES, *python_files("bench", "demo")], ids=lambda file: str(file.relative_to(ROOT))
)
def test_libraries_are_used_through_their_documented_interface(file: Path) -> None:
    assert misuse(file.read_text()) == (set(), set(), set())


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("from lib._inner import name", ({"lib._inner.name"}, set(), set())),
        ("import lib; getattr(lib, '_name')", ({"getattr(lib, '_name')"}, set(), set())),
        ("import lib\nclass Own(lib.Base): ...", (set(), {"lib.Base"}, set())),
        ("import lib; lib.name = 1", (set(), set(), {"lib.name"})),
        ("import lib; lib.inner.name: int = 1", (set(), set(), {"lib.inner.name"})),
        ("from lib import Name; Name.method, rest = 1, 2", (set(), set(), {"Name.method"})),
        ("import lib; del lib.name", (set(), set(), {"lib.name"})),
        ("import lib; setattr(lib, 'name', 1)", (set(), set(), {"setattr(lib, 'name', 1)"})),
        ("from lib import Name; delattr(Name.inner, name)", (set(), set(), {"delattr(Name.inner, name)"})),
        ("import lib; own = lib.Name(); own.name = 1; setattr(own, 'name', 1)", (set(), set(), set())),
    ],
)
def test_misuse_is_noticed(line: str, found: tuple[set[str], set[str], set[str]]) -> None:
    assert misuse(line) == found


@cache
def code_of(file: Path) -> str:
    """Return the file's code without comments and docstrings."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(...)
    return ast.unparse(tree)


@pytest.mark.parametrize(("library", "pattern", "allowed"), UNDOCUMENTED)
def test_what_is_not_documented_is_used_only_where_it_is_listed(
    library: str, pattern: str, allowed: dict[str, int]
) -> None:
    places: Counter[str] = Counter()
    for file in FILES:
        path = str(file.relative_to(ROOT))
        place = next((place for place in allowed if path.startswith(place)), path)
        places[place] += len(re.findall(pattern, code_of(file)))

    assert +places == allowed, library


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
