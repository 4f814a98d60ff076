"""Machines as network namespaces: each has an address, and its own link to a switch in the middle.

Needs root, iproute2 and util-linux. A namespace lives as long as the process that holds it, which dies with this one:
nothing is left behind.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from tests.servers.process import ServerMissing, require
from tests.servers.waiting import comes_true

_PREFIX = "10.87"
_SWITCH = "switch"
_CLONE_NEWNET = 0x40000000

P = ParamSpec("P")
T = TypeVar("T")


class Machine:
    """A namespace. `address` is its IPv4 address on the switch."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.pid = 0
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig=KILL", "--", "unshare", "--net", "--", "sleep", "infinity"],
            stdin=subprocess.DEVNULL,
        )
        self.pid = self._holder.pid
        ours = os.readlink("/proc/self/ns/net")
        assert comes_true(lambda: os.readlink(f"/proc/{self.pid}/ns/net") != ours)
        self.run("ip", "link", "set", "lo", "up")
        # Threads that live as long as the machine: processes die with the thread that started them.
        self._threads = ThreadPoolExecutor(4, f"machine {address}", self._enter)

    def begin(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call a function on this machine: its sockets, and the processes that it starts, are in this namespace."""
        return self._threads.submit(function, *args, **kwargs)

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on this machine and return its result."""
        return self.begin(function, *args, **kwargs).result()

    def command(self, *argv: str) -> list[str]:
        """Return the command that runs `argv` in this namespace."""
        return ["nsenter", "--target", str(self.pid), "--net", "--", *argv]

    def run(self, *argv: str) -> str:
        """Run a command to its end and return its output. Raises CalledProcessError."""
        return subprocess.run(self.command(*argv), check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        """Remove it and its link. Its processes must have ended."""
        self._threads.shutdown()
        self._holder.kill()
        self._holder.wait()

    def _enter(self) -> None:
        """Move the calling thread into this namespace (setns(2))."""
        with open(f"/proc/{self.pid}/ns/net", "rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")


class Network:
    """A switch to which machines are connected."""

    def __init__(self) -> None:
        self._switch = Machine("")
        self._switch.run("ip", "link", "add", _SWITCH, "type", "bridge")
        self._switch.run("ip", "link", "set", _SWITCH, "up")
        self.machines: list[Machine] = []

    def connect(self, mbit: float | None = None, upload_mbit: float | None = None) -> Machine:
        """Add a machine whose link carries `mbit` Mbit/s in each direction, `upload_mbit` towards the switch if set."""
        number = len(self.machines) + 1
        machine = Machine(f"{_PREFIX}.{number // 250}.{number % 250 + 1}")
        self.machines.append(machine)
        port = f"port{number}"
        self._switch.run(
            "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid)
        )
        self._switch.run("ip", "link", "set", port, "master", _SWITCH, "up")
        machine.run("ip", "addr", "add", f"{machine.address}/16", "dev", "eth0")
        machine.run("ip", "link", "set", "eth0", "up")
        if mbit is not None:
            self._switch.run(*shape(port, mbit))
            machine.run(*shape("eth0", upload_mbit or mbit))
        return machine

    def sent_by(self, machine: Machine) -> int:
        """Return the bytes that a machine has sent."""
        [found] = json.loads(machine.run("ip", "-json", "-statistics", "link", "show", "eth0"))
        return int(found["stats64"]["tx"]["bytes"])

    def close(self) -> None:
        """Remove everything."""
        for machine in [*self.machines, self._switch]:
            machine.close()


def shape(device: str, mbit: float) -> Sequence[str]:
    """Return the command that lets `device` send `mbit` Mbit/s; packets beyond 100 ms of it are dropped."""
    rate = f"{mbit:g}mbit"
    return [
        "tc",
        "qdisc",
        "add",
        "dev",
        device,
        "root",
        "tbf",
        "rate",
        rate,
        "burst",
        "64kb",
        "latency",
        "100ms",
    ]


def require_namespaces() -> None:
    """Raise ServerMissing, or PermissionError if this is not root."""
    if os.geteuid():
        raise PermissionError("network namespaces need root")
    for binary, package in (("ip", "iproute2"), ("tc", "iproute2"), ("nsenter", "util-linux")):
        require(binary, package)


@contextmanager
def start_network() -> Iterator[Network]:
    """Yield a network without machines; `connect` adds them."""
    require_namespaces()
    network = Network()
    try:
        yield network
    finally:
        network.close()


__all__ = ["Machine", "Network", "ServerMissing", "require_namespaces", "start_network"]
