"""A real registry that notifies an installation's web app, for acceptance tests."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.installation import Installation
from tests.servers.process import free_port, listening
from tests.servers.registry import Endpoint, Registry, start_registry

KEY = "secretkey"
_TABLES = ("", "_queue", "_scope", "_manifest", "_seen")


class Receiver:
    """An installation whose web app gets the events of `registry`; `demo/*` has the role."""

    def __init__(self, folder: Path, registry: Registry, port: int, key: str = KEY) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.registry = registry
        self.installation = Installation(
            folder, registry, application={"port": port, "event_authorization": key}
        )
        self.installation.grant("demo/*")
        self.web = self.installation.process("web", ready=listening(port), name="web")

    def post(self, body: bytes) -> requests.Response:
        """Send a notification by hand."""
        return requests.post(f"{self.url}/v0/event", body, headers={"Authorization": KEY}, timeout=60)

    def rows(self, table: str) -> list[tuple[Any, ...]]:
        """Return all rows of a table; "" is the mapping."""
        path = self.installation.state / "docker_torrents.sqlite"
        with closing(sqlite3.connect(path)) as database:
            return sorted(database.execute(f"SELECT * FROM rbtorrent_mapping{table}"))

    def queued(self) -> set[str]:
        """Return the digests of the layers that are queued."""
        return {row[0] for row in self.rows("_queue")}

    def waiting(self) -> set[tuple[str, str]]:
        """Scope and digest of the manifests that wait to be resolved."""
        return {(row[0], row[1]) for row in self.rows("_manifest")}

    def everything(self) -> list[list[tuple[Any, ...]]]:
        """Return all tables, with the seen manifests last."""
        return [self.rows(table) for table in _TABLES]

    def resolve(self) -> str:
        """Resolve due manifests, and return the last line of the command."""
        return self.installation.last_line("run", "resolve-manifests")


@contextmanager
def receiving(
    folder: Path,
    *,
    key: str = KEY,
    timeout: str = "1s",
    sinks: tuple[Endpoint, ...] = (),
    **registry_options: Any,
) -> Iterator[Receiver]:
    """Yield a registry and the receiver of its notifications; the app is running.

    The registry repeats an event that is not answered within `timeout`.
    """
    port = free_port()
    endpoint: Endpoint = {
        "url": f"http://127.0.0.1:{port}/v0/event",
        "headers": {"Authorization": [KEY]},
        "timeout": timeout,
        "threshold": 3,
        "backoff": "100ms",
    }
    (folder / "registry").mkdir()
    with start_registry(
        folder / "registry", notifications=[endpoint, *sinks], delete=True, **registry_options
    ) as registry:
        receiver = Receiver(folder / "installation", registry, port, key)
        receiver.web.start()
        try:
            yield receiver
        finally:
            receiver.web.stop()
