"""The mirror as a process, and configurations of engines for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from core.config.config import Config
from node.configure import apply
from node.engines.engines import Engines, Mirror
from tests.constants import AMPLE_WAITS_OF_MIRRORS
from tests.installation import Installation
from tests.program import program
from tests.servers.process import ServerProcess, free_port
from tests.servers.registry import Registry


@dataclass(frozen=True)
class MirrorProcess:
    """A running `docker_torrents mirror`."""

    installation: Installation
    registry: str
    port: int
    process: ServerProcess

    @property
    def netloc(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """`http://host:port`, without a slash at the end."""
        return f"http://{self.netloc}"

    def get(self, path: str, **arguments: Any) -> requests.Response:
        """Return the answer to a GET."""
        with requests.Session() as session:
            session.trust_env = False
            return session.get(self.url + path, timeout=60, **arguments)

    def status(self) -> dict[str, Any]:
        """Return the output of `mirror status --json`."""
        status: dict[str, Any] = self.get("/v0/mirror/status").json()
        return status

    def received(self) -> dict[str, int]:
        """Return the bytes of layers by origin."""
        origins: dict[str, int] = self.status()["origins"]
        return origins

    def layer_requests(self) -> int:
        """Return the number of answered requests for layers."""
        lines = self.get("/metrics").text.splitlines()
        counted = [
            line for line in lines if line.startswith('docker_torrents_mirror_answers_total{kind="blobs"')
        ]
        return sum(int(float(line.rpartition(" ")[2])) for line in counted)

    def is_idle(self) -> bool:
        """Return whether all downloads have ended: their layers are cached, or they have failed."""
        return {one["state"] for one in self.status()["downloads"]} <= {"verified", "seeding", "failed"}

    def configure(self, engine: str, root: Path) -> None:
        """Point an engine here, as `mirror configure --root` does."""
        mirror = Mirror.of(Config.model_validate(self.installation.sections))
        for change in Engines(root).plan(engine, mirror).changes:
            apply(change)


@contextmanager
def start_mirror(
    folder: Path,
    registry: Registry | str,
    *,
    port: int | None = None,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    **mirror: Any,
) -> Iterator[MirrorProcess]:
    """Run a mirror of the registry with its configuration and cache in `folder`; `mirror` are keys of its
    section, `sections` other sections. It waits long for the service and the swarm.
    """
    port = port or free_port()
    section: Mapping[str, Any] = {
        "port": port,
        "peer_host": "127.0.0.1",
        "peer_port": free_port(),
        "cache_dir": str(folder / "cache"),
        "keep_free": 0,
        **mirror,
    }
    installation = Installation(
        folder, registry, **{"application": None, "mirror": section, **(sections or {})}
    )
    netloc = registry if isinstance(registry, str) else registry.netloc
    waits, ready = AMPLE_WAITS_OF_MIRRORS, lambda: _pings(port)
    process = program(installation, "mirror", constants=waits, ready=ready, name="mirror")
    process.start()
    try:
        yield MirrorProcess(installation, netloc, port, process)
    finally:
        process.stop()


def _pings(port: int) -> bool:
    try:
        with requests.Session() as session:
            session.trust_env = False
            return session.get(f"http://127.0.0.1:{port}/ping", timeout=5).text == "pong"
    except requests.RequestException:
        return False
