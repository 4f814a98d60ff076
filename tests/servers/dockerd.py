"""A real dockerd with the containerd that it starts. Needs root."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.process import ServerMissing, ServerProcess, require


@dataclass(frozen=True)
class Dockerd:
    """A running dockerd: `host` is for `docker -H`, `containerd` is the socket for `ctr -a`."""

    host: str
    containerd: Path
    process: ServerProcess


@contextmanager
def start_dockerd(folder: Path) -> Iterator[Dockerd]:
    """Run a dockerd that keeps everything in `folder` and does not change the machine's network.

    The paths of its sockets are limited to some 100 characters, so `folder` has to be short. Raises
    ServerMissing, also where this process is not root; ServerFailed.
    """
    binary = require("dockerd", "docker.io")
    require("containerd", "containerd")
    if os.geteuid() != 0:
        raise ServerMissing("dockerd for users other than root", "docker.io, run as root")
    folder.mkdir(exist_ok=True)
    listening = folder / "docker.sock"
    process = ServerProcess(
        [
            binary,
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--storage-driver=vfs",
            f"--data-root={folder / 'data'}",
            f"--exec-root={folder / 'exec'}",
            f"--pidfile={folder / 'docker.pid'}",
            f"--host=unix://{listening}",
        ],
        ready=_listening(listening),
        log=folder / "dockerd.log",
        start_timeout=60,
    )
    process.start()
    try:
        yield Dockerd(f"unix://{listening}", folder / "exec/containerd/containerd.sock", process)
    finally:
        process.stop()


def _listening(path: Path) -> Callable[[], bool]:
    def ready() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            return probe.connect_ex(str(path)) == 0

    return ready
