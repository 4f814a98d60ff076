"""An installation of docker_torrents: a configuration file, and the program run with it."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psutil

from core.config.file import load_config
from jobs.service import Service
from sql.scopes import grant_role
from sql.transaction import transaction
from tests.servers.process import ServerProcess, bound_to_parent, child_environment
from tests.servers.registry import Registry

PROGRAM = Path(sys.executable).with_name("docker_torrents")


class Installation:
    """A configuration in `folder` against `registry`; keyword arguments are merged into its sections."""

    def __init__(self, folder: Path, registry: Registry | str, **sections: Mapping[str, Any] | None) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        host = registry if isinstance(registry, str) else registry.netloc
        self.sections: dict[str, Any] = {
            "docker_registry": {"proto": "http", "host": host},
            "application": {"state_dir": str(folder / "state"), "host": "127.0.0.1"},
        }
        for name, section in sections.items():
            self.sections[name] = {**self.sections.get(name, {}), **(section or {})}
        self.state = Path(self.sections["application"]["state_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(json.dumps(self.sections))  # JSON is YAML

    @property
    def metainfo(self) -> Path:
        """The folder of the metainfo store."""
        return self.state / "metainfo"

    def torrent(self, digest: str) -> Path:
        """Return the .torrent of a layer in the directory store."""
        [found] = self.metainfo.rglob(f"*{digest.partition(':')[2]}*")
        return found

    def run(
        self, *words: str, timeout: float = 120, check: bool = True, stderr: int = subprocess.PIPE
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. With `check`, a non-zero status fails the test. `stderr` may be a file."""
        ended = subprocess.run(
            bound_to_parent([PROGRAM, "-c", self.config, *words]),
            env=child_environment(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and ended.returncode != 0:
            raise AssertionError(f"{words} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")
        return ended

    def last_line(self, *words: str) -> str:
        """Run a command, and return its last line."""
        return self.run(*words).stdout.splitlines()[-1]

    def json(self, *words: str) -> Any:
        """Run a command, and return its JSON."""
        return json.loads(self.run(*words, "--json").stdout)

    def sqlite_value(self, query: str) -> Any:
        """Return the value of a query of the SQLite database, which must exist, without starting the program."""
        with closing(sqlite3.connect(self.state / "docker_torrents.sqlite")) as database:
            return database.execute(query).fetchone()[0]

    @contextmanager
    def service(self) -> Iterator[Service]:
        """Yield the service that commands use, in this process, which is faster than starting one."""
        service = Service(load_config(self.config))
        try:
            yield service
        finally:
            service.close()

    def init_db(self) -> None:
        """Create the tables, as `init-db` does."""
        with self.service() as service:
            assert service.database

    def grant(self, *patterns: str) -> None:
        """Grant repositories the role, as `role grant` does."""
        with self.service() as service, transaction(service.database) as connection:
            for pattern in patterns:
                grant_role(connection, service.tables, pattern, now=service.now(connection))

    def process(
        self,
        *words: str,
        ready: Callable[[], bool] = lambda: True,
        name: str = "program",
        environment: Mapping[str, str] | None = None,
    ) -> ServerProcess:
        """Return a command to start, stop and kill, or for a `with` block; its output is in `<name>.log`."""
        return ServerProcess(
            [PROGRAM, "-c", self.config, *words],
            ready=ready,
            log=self.folder / f"{name}.log",
            env=environment,
            # The daemon's parts end one after another, each within its own time-out.
            grace=60.0,
        )


def worker_pids(process: ServerProcess) -> list[int]:
    """Return the processes of a command in which its app is served."""
    return [child.pid for child in psutil.Process(process.pid).children() if _is_worker(child)]


def _is_worker(child: psutil.Process) -> bool:
    try:
        return "spawn_main" in " ".join(child.cmdline())
    except psutil.NoSuchProcess:
        # A zombie.
        return False
