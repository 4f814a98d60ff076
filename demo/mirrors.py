"""Two machines pull an image through their mirrors, without a tracker; shows the sources of the bytes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.constants import AMPLE_WAITS_OF_MIRRORS
from tests.program import ROOT, program_with
from tests.servers.process import ServerProcess, child_environment, free_port, listening
from tests.servers.waiting import comes_true

PROGRAM = Path(sys.executable).with_name("docker_torrents")

_CONFIG = """\
docker_registry:
    proto: http
    host: {registry}
mirror:
    port: {port}
    torrents_url: http://127.0.0.1:{service}
    peer_host: 127.0.0.1
    peer_port: {peer_port}
    cache_dir: {folder}/cache
    keep_free: 0
"""

# Read by podman, skopeo and CRI-O (containers-registries.conf(5)).
_REGISTRIES = """\
[[registry]]
location = "{registry}"
insecure = true

[[registry.mirror]]
location = "127.0.0.1:{port}"
insecure = true
"""

ORIGINS = ("peers", "web_seed", "registry")


@dataclass(frozen=True)
class Machine:
    """A mirror with its own cache, and the folder of the user who pulls on that machine."""

    name: str
    registry: str
    folder: Path
    port: int
    process: ServerProcess

    def pull(self, image: str) -> str:
        """Pull `scope:tag` with skopeo, or else with `mirror prefetch`. Return the command."""
        skopeo = shutil.which("skopeo")
        if skopeo is None:
            _run([PROGRAM, "-c", self.folder / "config.yaml", "mirror", "prefetch", image], self.folder)
            return "docker_torrents mirror prefetch"
        conf = self.folder / ".config/containers/registries.conf"
        conf.parent.mkdir(parents=True)
        conf.write_text(_REGISTRIES.format(registry=self.registry, port=self.port))
        source, target = f"docker://{self.registry}/{image}", f"dir:{self.folder}/image"
        _run([skopeo, "--insecure-policy", "copy", "--quiet", source, target], self.folder)
        return "skopeo"

    def received(self) -> dict[str, int]:
        """Return the bytes of layers by origin."""
        origins: dict[str, int] = self._status()["origins"]
        return origins

    def seeds_all(self) -> bool:
        """Return whether it has downloaded all layers and seeds them."""
        return {one["state"] for one in self._status()["downloads"]} == {"seeding"}

    def _status(self) -> dict[str, Any]:
        status: dict[str, Any] = requests.get(
            f"http://127.0.0.1:{self.port}/v0/mirror/status", timeout=60
        ).json()
        return status


def pull_on_two_machines(
    folder: Path, registry: str, service: int, image: str
) -> list[tuple[str, dict[str, int]]]:
    """Pull `image` on one machine, then on another. Return the name of each and its bytes by origin."""
    rows = []
    with ExitStack() as running:
        for name in ("first", "second"):
            machine = _machine(folder / name, registry, service)
            machine.process.start()
            running.callback(machine.process.stop)
            how = machine.pull(image)
            print(f"-- the {name} machine has pulled {image} with {how}", flush=True)
            if not comes_true(machine.seeds_all, 120):
                raise SystemExit(f"demo: the {name} machine does not seed the layers")
            rows.append((name, machine.received()))
    return rows


def print_table(rows: list[tuple[str, dict[str, int]]]) -> None:
    """Print the sources of each machine's bytes."""
    print(f"{'machine':<10} {'from peers':>14} {'from the service':>18} {'from the registry':>18}")
    for name, received in rows:
        peers, web_seed, registry = (f"{received.get(origin, 0) / 1e6:.1f} MB" for origin in ORIGINS)
        print(f"{name:<10} {peers:>14} {web_seed:>18} {registry:>18}", flush=True)


def _machine(folder: Path, registry: str, service: int) -> Machine:
    folder.mkdir()
    port = free_port()
    config = folder / "config.yaml"
    config.write_text(
        _CONFIG.format(registry=registry, port=port, service=service, peer_port=free_port(), folder=folder)
    )
    process = ServerProcess(
        # On a busy machine it still waits for torrents.
        [*program_with(AMPLE_WAITS_OF_MIRRORS), "-c", config, "mirror"],
        ready=listening(port),
        log=folder / "mirror.log",
        cwd=ROOT,
        grace=15.0,
    )
    return Machine(folder.name, registry, folder, port, process)


def _run(argv: list[str | Path], home: Path) -> None:
    """Run a program as the user whose folder is `home`."""
    ended = subprocess.run(
        argv,
        env=child_environment({"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}),
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise SystemExit(
            f"demo: {Path(argv[0]).name} ended with {ended.returncode}\n{ended.stdout}{ended.stderr}"
        )
