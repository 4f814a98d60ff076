"""Machines that all want one layer at once: by BitTorrent with this app, and by plain HTTP from the registry.

Each machine is a network namespace with a line of its own; the registry's, with registry, app and tracker
on it, is the one that this bench runs in. Nothing of it is left when the processes end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from matplotlib.axes import Axes

from bench.report import Target, report
from tests.installation import Installation
from tests.servers.layers import write_layer
from tests.servers.opentracker import start_opentracker
from tests.servers.process import child_environment, free_port, listening, require
from tests.servers.push import push_image
from tests.servers.registry import start_registry

NODES = (1, 2, 4, 8, 16)
SIZE = 64 * 1024 * 1024
LINE_MBIT = 100
SCOPE = "bench/layer"
PREFIX = "10.87.0"
HOST = f"{PREFIX}.1"
BRIDGE = "swarm"
INSIDE = "--inside"
HTTP = "plain HTTP from the registry"
TORRENT = "torrent, tracker and web seed at this app"
FASTER_AT_8 = 2.0

# What a machine sends waits here for its line; more than 100 ms of it is dropped.
SHAPE = ("root", "tbf", "rate", f"{LINE_MBIT}mbit", "burst", "64kb", "latency", "100ms")


class Node:
    """A machine of the swarm, the `number`th: a process in a network namespace of its own (swarm_node.py)."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self._process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-m", "bench.swarm_node", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
            text=True,
        )
        self.answer()
        self._connect()

    def ask(self, line: str) -> None:
        """Have it do something; `answer` waits for it."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """The next line that it says. Raises RuntimeError if it ends instead."""
        assert self._process.stdout is not None
        if line := self._process.stdout.readline().strip():
            return line
        raise RuntimeError(f"machine {self.number} ended with {self._process.wait()}")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()

    def _connect(self) -> None:
        ours, pid = f"node{self.number}", str(self._process.pid)
        ip("link", "add", ours, "type", "veth", "peer", "name", "eth0", "netns", pid)
        ip("link", "set", ours, "master", BRIDGE, "up")
        shape(ours)
        within = ("nsenter", "--target", pid, "--net")
        ip("link", "set", "lo", "up", within=within)
        ip("addr", "add", f"{PREFIX}.{self.number + 10}/24", "dev", "eth0", within=within)
        ip("link", "set", "eth0", "up", within=within)
        shape("eth0", within=within)


def main() -> None:
    if os.geteuid():
        raise SystemExit("network namespaces are root's: run this bench as root")
    for binary, package in (("ip", "iproute2"), ("tc", "iproute2"), ("curl", "curl")):
        require(binary, package)
    if INSIDE not in sys.argv:
        command = ["unshare", "--net", sys.executable, "-m", "bench.swarm", INSIDE]
        sys.exit(subprocess.run(command).returncode)
    lay_lines()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        urls, sha256 = stack.enter_context(serving(folder))
        nodes: list[Node] = []
        rows: list[dict[str, object]] = []
        for count in NODES:
            while len(nodes) < count:
                nodes.append(Node(len(nodes), folder / f"node{len(nodes)}"))
                stack.callback(nodes[-1].close)
            for what, url in urls.items():
                seconds, sent = fetch(nodes, url, sha256)
                rows.append(
                    {"machines": count, "what": what, "seconds": seconds, "sent, layers": sent / SIZE}
                )
                print(f"{count} machines, {what}: {seconds:.1f} s", flush=True)
    tell(rows)


def lay_lines() -> None:
    """The registry's machine, and a switch for all. What the bridge itself sends is the registry's."""
    ip("link", "set", "lo", "up")
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")
    shape(BRIDGE)


@contextmanager
def serving(folder: Path) -> Iterator[tuple[dict[str, str], str]]:
    """What a machine is asked to fetch, by the way it comes; and the SHA-256 that it should have."""
    (folder / "registry").mkdir()
    port = free_port()
    with (
        start_registry(folder / "registry", host=HOST, access_log=False) as registry,
        start_opentracker(folder / "tracker", host=HOST) as tracker,
    ):
        digest = push_image(registry, SCOPE, "v1", [write_layer(folder / "layer", SIZE)]).layers[0].digest
        installation = Installation(
            folder / "app",
            registry,
            application={"host": HOST, "port": port, "public_url": f"http://{HOST}:{port}"},
            torrents={"trackers": [tracker.announce_url]},
        )
        installation.run("backfill", "repository", SCOPE)
        installation.run("run", "brew")
        tracker.allow(installation.asked("show", digest)["rbtorrent_id"].removeprefix("rbtorrent:"))
        web = installation.process("web", ready=listening(port, HOST), name="web")
        web.start()
        try:
            yield (
                {
                    HTTP: f"http {registry.url}/v2/{SCOPE}/blobs/{digest}",
                    TORRENT: f"torrent http://{HOST}:{port}/v0/torrents/{SCOPE}/{digest}",
                },
                digest.removeprefix("sha256:"),
            )
        finally:
            web.stop()


def fetch(nodes: Sequence[Node], what: str, sha256: str) -> tuple[float, int]:
    """Have all machines fetch it at once: seconds until the last one has it, bytes that the registry sent.

    Raises RuntimeError if one of them has something else in the end.
    """
    for node in nodes:
        node.ask("rest")
    for node in nodes:
        node.answer()
    before = sent_by_the_registry()
    began = time.monotonic()
    for node in nodes:
        node.ask(what)
    for node in nodes:
        if node.answer() != f"done {sha256}":
            raise RuntimeError(f"machine {node.number} has another file")
    return time.monotonic() - began, sent_by_the_registry() - before


def sent_by_the_registry() -> int:
    [told] = json.loads(ip("-json", "-statistics", "link", "show", BRIDGE))
    return int(told["stats64"]["tx"]["bytes"])


def shape(device: str, within: Sequence[str] = ()) -> None:
    """Let `device` send as much as its line takes, and no more."""
    subprocess.run([*within, "tc", "qdisc", "add", "dev", device, *SHAPE], check=True)


def ip(*words: str, within: Sequence[str] = ()) -> str:
    """What `ip` says."""
    return subprocess.run([*within, "ip", *words], check=True, capture_output=True, text=True).stdout


def tell(rows: list[dict[str, object]]) -> None:
    """Print and keep what was found."""
    seconds = {(row["machines"], row["what"]): float(str(row["seconds"])) for row in rows}
    for row in rows:
        row["times as fast"] = seconds[row["machines"], HTTP] / seconds[row["machines"], row["what"]]

    def plot(axes: Axes) -> None:
        for what in (HTTP, TORRENT):
            axes.plot(NODES, [seconds[count, what] for count in NODES], marker="o", label=what)
        axes.set_xlabel("machines that want the layer at once")
        axes.set_ylabel("seconds until all have it")
        axes.set_ylim(bottom=0)
        axes.legend()

    gain = seconds[8, HTTP] / seconds[8, TORRENT]
    report(
        "swarm",
        rows,
        ["machines", "what", "seconds", "sent, layers", "times as fast"],
        f"A layer of {SIZE // 2**20} MiB, the lines of all, the registry's too, {LINE_MBIT} Mbit/s each way: "
        f"{SIZE * 8 / LINE_MBIT / 1e6:.1f} s at least.\nSeconds until the last machine has the layer and has "
        "compared its SHA-256; how often the registry's machine sent it.",
        plot,
        [
            Target(
                f"8 machines at least {FASTER_AT_8:g} times as fast as over plain HTTP",
                f"{gain:.1f} times",
                gain >= FASTER_AT_8,
            )
        ],
    )


if __name__ == "__main__":
    main()
