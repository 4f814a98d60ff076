"""Many machines download a layer at once: through mirrors, as plain torrent clients, and by plain HTTP.

Each machine is a network namespace with its own link; the registry's, with registry, app and tracker on it,
is the one in which this benchmark runs. Nothing remains when the processes end.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from bench.report import Target, report
from bench.swarm_node import MIRROR_PORT
from tests.installation import Installation
from tests.servers.layers import write_layer
from tests.servers.opentracker import start_opentracker
from tests.servers.process import child_environment, free_port, listening, require
from tests.servers.push import push_image
from tests.servers.registry import start_registry

LINE_MBIT, SLOW_NODE_MBIT = 50, 3
FAST_MBIT = (500, 200)
LINES = (*((mbit, (1,)) for mbit in FAST_MBIT), (LINE_MBIT, (1, 4, 8)), (12, (16,)), (6, (32,)))
"""Links, and how many machines fetch over such links: the more machines, the slower, so that the processor of
this one machine is not the limit."""
MAX_HTTP_MACHINES = 4
"""Machines that fetch by plain HTTP: more take proportionally longer."""
MAX_TORRENT_MACHINES = 16
SIZE = 64 * 1024 * 1024
MANY = 32
IN_TROUBLE = 8
JOINING_SECONDS = 10.0
SCOPE = "bench/layer"
PREFIX = "10.87.0"
HOST = f"{PREFIX}.1"
BRIDGE = "swarm"
INSIDE = "--inside"
HTTP, TORRENT, MIRROR = "plain HTTP", "torrent, client defaults", "mirrors"


class Node:
    """A machine of the swarm, the `number`th: a process in its own network namespace (swarm_node.py)."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self._device = f"node{number}"
        self._process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-m", "bench.swarm_node", folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
            text=True,
        )
        self.answer()
        self._connect()

    def send(self, line: str) -> None:
        """Send the machine a command; `answer` waits for the result."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """Return the machine's next line of output. Raises RuntimeError if its process ends instead."""
        assert self._process.stdout is not None
        if line := self._process.stdout.readline().strip():
            return line
        raise RuntimeError(f"machine {self.number} ended with {self._process.wait()}")

    def close(self) -> None:
        """Kill the machine's process."""
        self._process.kill()
        self._process.communicate()

    def shape(self, mbit: int, upload_mbit: int | None = None) -> None:
        """Set the capacity of the machine's link in each direction."""
        shape(self._device, mbit)
        shape("eth0", upload_mbit or mbit, self._within)

    @property
    def _within(self) -> tuple[str, ...]:
        return ("nsenter", "--target", str(self._process.pid), "--net")

    def _connect(self) -> None:
        pid = str(self._process.pid)
        ip("link", "add", self._device, "type", "veth", "peer", "name", "eth0", "netns", pid)
        ip("link", "set", self._device, "master", BRIDGE, "up")
        ip("link", "set", "lo", "up", within=self._within)
        ip("addr", "add", f"{PREFIX}.{self.number + 10}/24", "dev", "eth0", within=self._within)
        ip("link", "set", "eth0", "up", within=self._within)


@dataclass(frozen=True)
class Served:
    """The layer that machines fetch, and the addresses of the registry and the app."""

    registry: str
    app: str
    app_with_tracker: str
    """The app whose .torrent also names a tracker."""
    digest: str

    def request(self, way: str) -> str:
        """Return the command for a machine."""
        if way == TORRENT:
            return f"torrent {self.app_with_tracker}/v0/torrents/{SCOPE}/{self.digest}"
        host = f"127.0.0.1:{MIRROR_PORT}" if way == MIRROR else self.registry
        return f"http http://{host}/v2/{SCOPE}/blobs/{self.digest}"

    def mirror(self) -> str:
        """Return a mirror's configuration, on one line."""
        return json.dumps(
            {
                "docker_registry": {"host": self.registry, "proto": "http"},
                "mirror": {"torrents_url": self.app, "cache_dir": "./cache", "keep_free": 0},
            }
        )


@dataclass(frozen=True)
class Outcome:
    """How long each machine took, in seconds, and how many bytes the registry's machine sent meanwhile.

    `processor` has the seconds of each machine's mirror.
    """

    seconds: list[float]
    processor: list[float]
    sent: int


def main() -> None:
    if os.geteuid():
        raise SystemExit("network namespaces need root: run this benchmark as root")
    for binary, package in (("ip", "iproute2"), ("tc", "iproute2"), ("curl", "curl")):
        require(binary, package)
    if INSIDE not in sys.argv:
        command = ["unshare", "--net", sys.executable, "-m", "bench.swarm", INSIDE]
        sys.exit(subprocess.run(command).returncode)
    create_links()
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        served = stack.enter_context(serving(folder))
        nodes = [Node(number, folder / f"node{number}") for number in range(MANY)]
        for node in nodes:
            stack.callback(node.close)
        show_results(list(measure(nodes, served)))


def measure(nodes: Sequence[Node], served: Served) -> Iterator[dict[str, object]]:
    """Yield a row for each scenario."""

    def row(what: str, count: int, mbit: int, outcome: Outcome, one: float) -> dict[str, object]:
        last = max(outcome.seconds)
        print(f"{what}, {count} machines at {mbit} Mbit/s: {last:.1f} s", flush=True)
        return {
            "what": what,
            "machines": count,
            "Mbit/s": mbit,
            "last, s": last,
            "median, s": statistics.median(outcome.seconds),
            "x one alone": last / one,
            "processor, s": statistics.mean(outcome.processor) if what.startswith(MIRROR) else None,
            "sent, layers": outcome.sent / SIZE,
        }

    for mbit, counts in LINES:
        set_links(nodes, mbit)
        alone = max(fetch(nodes[:1], served, HTTP).seconds)
        for count in counts:
            for way, limit in ((HTTP, MAX_HTTP_MACHINES), (TORRENT, MAX_TORRENT_MACHINES), (MIRROR, MANY)):
                if count <= limit:
                    yield row(way, count, mbit, fetch(nodes[:count], served, way), alone)
        if mbit == LINE_MBIT:
            for what, outcome in measure_trouble(nodes[:IN_TROUBLE], served):
                yield row(f"{MIRROR}, {what}", IN_TROUBLE, mbit, outcome, alone)


def measure_trouble(nodes: Sequence[Node], served: Served) -> Iterator[tuple[str, Outcome]]:
    """Yield each kind of failure, with the mirrors' results."""
    nodes[-1].shape(LINE_MBIT, SLOW_NODE_MBIT)
    yield f"one uploads at {SLOW_NODE_MBIT} Mbit/s", fetch(nodes, served, MIRROR)
    nodes[-1].shape(LINE_MBIT)
    yield "one killed after 2 s", fetch(nodes, served, MIRROR, lambda: kill(nodes[0]), lost=nodes[0])
    apart = JOINING_SECONDS / len(nodes)
    yield f"joining over {JOINING_SECONDS:g} s", fetch(nodes, served, MIRROR, apart=apart)


def fetch(
    nodes: Sequence[Node],
    served: Served,
    way: str,
    meanwhile: Callable[[], object] = lambda: None,
    *,
    lost: Node | None = None,
    apart: float = 0.0,
) -> Outcome:
    """Fetch the layer on all machines, started `apart` seconds from each other; `lost` does not finish.

    Raises RuntimeError if another one gets wrong bytes.
    """
    for node in nodes:
        node.send(f"mirror {served.mirror()}" if way == MIRROR else "rest")
        node.answer()
    before = sent_by_the_registry()
    for node in nodes:
        node.send(served.request(way))
        time.sleep(apart)
    meanwhile()
    seconds, processor = [], []
    for node in nodes:
        answer = node.answer()
        if node is lost:
            continue
        got, took, processed = answer.split()
        if f"sha256:{got}" != served.digest:
            raise RuntimeError(f"machine {node.number} answers {answer}")
        seconds.append(float(took))
        processor.append(float(processed))
    sent = sent_by_the_registry() - before
    for node in nodes:
        node.send("rest")
    for node in nodes:
        node.answer()
    return Outcome(seconds, processor, sent)


def kill(node: Node) -> None:
    """Kill a machine's mirror in the middle of the download."""
    time.sleep(2.0)
    node.send("kill")


def create_links() -> None:
    """Create the registry's machine, and a switch for all. The bridge itself sends for the registry."""
    ip("link", "set", "lo", "up")
    ip("link", "add", BRIDGE, "type", "bridge")
    ip("addr", "add", f"{HOST}/24", "dev", BRIDGE)
    ip("link", "set", BRIDGE, "up")


def set_links(nodes: Sequence[Node], mbit: int) -> None:
    """Give every machine, including the registry's, a link of `mbit` Mbit/s in each direction."""
    shape(BRIDGE, mbit)
    for node in nodes:
        node.shape(mbit)


@contextmanager
def serving(folder: Path) -> Iterator[Served]:
    """Run registry, tracker, and the app with the tracker and without, with one layer brewed."""
    (folder / "registry").mkdir()
    with (
        start_registry(folder / "registry", host=HOST, access_log=False) as registry,
        start_opentracker(folder / "tracker", host=HOST) as tracker,
        ExitStack() as stack,
    ):
        digest = push_image(registry, SCOPE, "v1", [write_layer(folder / "layer", SIZE)]).layers[0].digest

        def app(name: str, trackers: list[str]) -> tuple[Installation, str]:
            port = free_port()
            url = f"http://{HOST}:{port}"
            installation = Installation(
                folder / name,
                registry,
                application={"host": HOST, "port": port, "public_url": url},
                torrents={"trackers": trackers},
            )
            installation.run("backfill", "repository", SCOPE)
            installation.run("run", "brew")
            web = installation.process("web", ready=listening(port, HOST), name="web")
            web.start()
            stack.callback(web.stop)
            return installation, url

        _, without = app("app", [])
        installation, with_tracker = app("app-with-tracker", [tracker.announce_url])
        tracker.allow(installation.json("show", digest)["rbtorrent_id"].removeprefix("rbtorrent:"))
        yield Served(registry.netloc, without, with_tracker, str(digest))


def sent_by_the_registry() -> int:
    [link] = json.loads(ip("-json", "-statistics", "link", "show", BRIDGE))
    return int(link["stats64"]["tx"]["bytes"])


def shape(device: str, mbit: int, within: Sequence[str] = ()) -> None:
    """Limit the rate at which `device` sends; packets beyond 100 ms of it are dropped."""
    line = ("root", "tbf", "rate", f"{mbit}mbit", "burst", f"{max(64, mbit)}kb", "latency", "100ms")
    subprocess.run([*within, "tc", "qdisc", "replace", "dev", device, *line], check=True)


def ip(*words: str, within: Sequence[str] = ()) -> str:
    """Return the output of `ip`."""
    return subprocess.run([*within, "ip", *words], check=True, capture_output=True, text=True).stdout


def show_results(rows: list[dict[str, object]]) -> None:
    """Print and store the results."""

    def plot(axes: Axes) -> None:
        for way in (HTTP, TORRENT, MIRROR):
            found = [row for row in rows if row["what"] == way and row["Mbit/s"] == LINE_MBIT]
            axes.plot(
                [int(str(row["machines"])) for row in found],
                [float(str(row["last, s"])) for row in found],
                marker="o",
                label=way,
            )
        axes.set_xlabel("machines that download the layer at once")
        axes.set_ylabel("seconds until all have it")
        axes.set_ylim(bottom=0)
        axes.legend()

    def figure(what: str, count: int, column: str, mbit: int | None = None) -> float:
        return next(
            float(str(row[column]))
            for row in rows
            if (row["what"], row["machines"]) == (what, count) and mbit in (None, row["Mbit/s"])
        )

    troubled = [row for row in rows if str(row["what"]).startswith(f"{MIRROR},")]
    most = max(float(str(row["sent, layers"])) for row in troubled)
    targets = [
        Target(f"last of {count} mirrors within {limit:g}x of one alone", f"{times:.2f}x", times <= limit)
        for count, limit, times in (
            (16, 1.3, figure(MIRROR, 16, "x one alone")),
            (MANY, 1.5, figure(MIRROR, MANY, "x one alone")),
        )
    ]
    targets += [
        Target(f"at most 1.1 layers sent to {count} mirrors", f"{sent:.2f}", sent <= 1.1)
        for count in (16, MANY)
        for sent in (figure(MIRROR, count, "sent, layers"),)
    ]
    targets.append(Target("at most 1.5 layers sent in trouble", f"{most:.2f}", most <= 1.5))
    targets += [
        Target(f"one mirror at {mbit} Mbit/s at most 1.1x of plain HTTP", f"{one:.2f}x", one <= 1.1)
        for mbit in (LINE_MBIT, *FAST_MBIT)
        for one in (figure(MIRROR, 1, "x one alone", mbit),)
    ]
    report(
        "swarm",
        rows,
        ["what", "machines", "Mbit/s", "last, s", "median, s", "x one alone", "sent, layers", "processor, s"],
        f"A layer of {SIZE // 2**20} MiB; all links, the registry's too, are full duplex. Mirrors use no "
        "tracker, torrent clients use one and the app's web seed.\nSeconds until a machine has the layer; "
        "one alone: by plain HTTP over the same link. Sent: everything that left the registry's machine.\n"
        f"Processor: of a mirror while it fetches, on average; the {os.cpu_count()} cores are shared by all.",
        plot,
        targets,
    )


if __name__ == "__main__":
    main()
