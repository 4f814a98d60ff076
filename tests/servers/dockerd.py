"""A real dockerd and its containerd. Needs root.

They are started apart: dockerd kills a containerd of its own that takes some seconds to answer, which happens
on a busy machine.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.process import ServerMissing, require, running


@dataclass(frozen=True)
class Dockerd:
    """A running dockerd: `host` is for `docker -H`, `containerd` is the socket for `ctr -a`."""

    host: str
    containerd: Path


@contextmanager
def start_dockerd(folder: Path) -> Iterator[Dockerd]:
    """Run a dockerd that keeps everything in `folder` and does not change the machine's network.

    The paths of its sockets are limited to some 100 characters, so `folder` has to be short. Raises
    ServerMissing, also where this process is not root; ServerFailed.
    """
    binary = require("dockerd", "docker.io")
    if os.geteuid() != 0:
        raise ServerMissing("dockerd for users other than root", "docker.io, run as root")
    folder.mkdir(exist_ok=True)
    listening = folder / "docker.sock"
    with (
        _start_containerd(folder) as containerd,
        running(
            [
                binary,
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
                "--storage-driver=vfs",
                f"--containerd={containerd}",
                f"--data-root={folder / 'data'}",
                f"--exec-root={folder / 'exec'}",
                f"--pidfile={folder / 'docker.pid'}",
                f"--host=unix://{listening}",
            ],
            ready=_accepts(listening),
            log=folder / "dockerd.log",
        ),
    ):
        yield Dockerd(f"unix://{listening}", containerd)


@contextmanager
def _start_containerd(folder: Path) -> Iterator[Path]:
    """Yield the path of its socket."""
    config, listening = folder / "containerd.toml", folder / "containerd.sock"
    config.write_text('version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n')
    with running(
        [
            require("containerd", "containerd"),
            f"--config={config}",
            f"--root={folder / 'containerd'}",
            f"--state={folder / 'state'}",
            f"--address={listening}",
        ],
        ready=_accepts(listening),
        log=folder / "containerd.log",
    ):
        yield listening


def _accepts(path: Path) -> Callable[[], bool]:
    def ready() -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1)
            return probe.connect_ex(str(path)) == 0

    return ready
