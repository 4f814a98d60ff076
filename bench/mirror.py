"""One layer through a mirror: alone, from another one, from its cache; compared with plain HTTP and
libtorrent.

Everything is on this machine, over the loopback: the shared processor is what is measured. The
processor seconds are those of the mirror's processes from the request on, the memory their peak.
"""

from __future__ import annotations

import json
import multiprocessing
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import requests
from matplotlib.axes import Axes

from bench.report import Target, report
from tests.installation import PROGRAM, Installation
from tests.servers.layers import write_layer
from tests.servers.libtorrent_client import done, start_libtorrent
from tests.servers.process import ServerProcess, free_port, listening, require
from tests.servers.push import push_image
from tests.servers.registry import Registry, start_registry
from tests.servers.waiting import comes_true

SIZE = 256 * 1024 * 1024
ROUNDS = 3
SCOPE = "bench/layer"
HTTP = "plain HTTP"
ALONE = "mirror, alone"
FROM_PEER = "mirror, from another mirror"
FROM_CACHE = "mirror, from its cache"
LIBTORRENT = "libtorrent alone, from a mirror"


@dataclass(frozen=True)
class Measured:
    """One way to get the layer: seconds, and the cost of its processes."""

    way: str
    seconds: float
    processor: float | None = None
    memory: float | None = None


class Mirror:
    """A mirror with an empty cache in `folder`."""

    def __init__(self, folder: Path, registry: Registry, app: str) -> None:
        folder.mkdir(parents=True)
        self.port = free_port()
        self.peer_port = free_port()
        (folder / "config.yaml").write_text(
            json.dumps(
                {
                    "docker_registry": {"host": registry.netloc, "proto": "http"},
                    "mirror": {
                        "port": self.port,
                        "peer_port": self.peer_port,
                        "torrents_url": app,
                        "cache_dir": "./cache",
                        "keep_free": 0,
                    },
                }
            )
        )
        self._process = ServerProcess(
            [PROGRAM, "-c", folder / "config.yaml", "mirror"],
            ready=listening(self.port),
            log=folder / "mirror.log",
        )

    def start(self) -> None:
        self._process.start()
        requests.get(f"http://127.0.0.1:{self.port}/ping", timeout=60).raise_for_status()

    def stop(self) -> None:
        self._process.stop()

    def fetch(self, way: str, digest: str) -> Measured:
        """Fetch the layer with curl."""
        before = self._processor()
        seconds = fetch(f"http://127.0.0.1:{self.port}", digest)
        comes_true(lambda: self._cached(digest))
        return Measured(way, seconds, self._processor() - before, self._memory())

    def _cached(self, digest: str) -> bool:
        status = requests.get(f"http://127.0.0.1:{self.port}/v0/mirror/status", timeout=60).json()
        return digest in json.dumps(status["cache"])

    def _all(self) -> list[psutil.Process]:
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def _processor(self) -> float:
        return sum(sum(process.cpu_times()[:2]) for process in self._all())

    def _memory(self) -> float:
        status = [Path(f"/proc/{process.pid}/status").read_text() for process in self._all()]
        return max(int(text.partition("VmHWM:")[2].split()[0]) for text in status) / 1024


def main() -> None:
    require("curl", "curl")
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as (registry, app, digest):
        show_results(measure(Path(name), registry, app, digest))


@contextmanager
def serving(folder: Path) -> Iterator[tuple[Registry, str, str]]:
    """Run registry and app with one layer brewed: the registry, the app's URL and the digest."""
    (folder / "registry").mkdir()
    port = free_port()
    with start_registry(folder / "registry", access_log=False) as registry:
        digest = push_image(registry, SCOPE, "v1", [write_layer(folder / "layer", SIZE)]).layers[0].digest
        app = f"http://127.0.0.1:{port}"
        installation = Installation(
            folder / "app",
            registry,
            application={"port": port, "public_url": app},
            layers={"source": "directory", "directory": str(registry.storage)},
        )
        installation.run("backfill", "repository", SCOPE)
        installation.run("run", "brew")
        web = installation.process("web", ready=listening(port), name="web")
        web.start()
        try:
            yield registry, app, str(digest)
        finally:
            web.stop()


def measure(folder: Path, registry: Registry, app: str, digest: str, rounds: int = ROUNDS) -> list[Measured]:
    """Return the fastest of some rounds, each with new mirrors, for each way."""
    found: dict[str, list[Measured]] = {}
    for number in range(rounds):
        first = Mirror(folder / f"first{number}", registry, app)
        second = Mirror(folder / f"second{number}", registry, app)
        try:
            first.start()
            second.start()
            each = [
                Measured(HTTP, fetch(registry.url, digest)),
                first.fetch(ALONE, digest),
                second.fetch(FROM_PEER, digest),
                second.fetch(FROM_CACHE, digest),
            ]
            torrent = requests.get(f"{app}/v0/torrents/{SCOPE}/{digest}", timeout=60).content
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                each.append(pool.apply(by_libtorrent, (folder / f"client{number}", torrent, first.peer_port)))
        finally:
            second.stop()
            first.stop()
        for one in each:
            found.setdefault(one.way, []).append(one)
            print(one, flush=True)
    return [min(measured, key=lambda one: one.seconds) for measured in found.values()]


def fetch(server: str, digest: str) -> float:
    """Return the seconds that curl takes for the layer."""
    begun = time.perf_counter()
    url = f"{server}/v2/{SCOPE}/blobs/{digest}"
    subprocess.run(["curl", "--silent", "--show-error", "--fail", "--output", "/dev/null", url], check=True)
    return time.perf_counter() - begun


def by_libtorrent(folder: Path, torrent: bytes, peer_port: int) -> Measured:
    """Fetch the layer from a peer with only libtorrent in this process."""
    with start_libtorrent(folder) as client:
        before, begun = time.process_time(), time.perf_counter()
        handle = client.add(torrent)
        for url in handle.url_seeds():
            handle.remove_url_seed(url)
        handle.connect_peer(("127.0.0.1", peer_port))
        while not done(handle):
            time.sleep(0.01)
        seconds, processor = time.perf_counter() - begun, time.process_time() - before
        memory = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024
        return Measured(LIBTORRENT, seconds, processor, memory)


def show_results(found: list[Measured]) -> None:
    """Print and store the results."""
    mib = SIZE / 2**20
    by_way = {one.way: one for one in found}
    rate = SIZE / by_way[FROM_CACHE].seconds / 1e6
    rows: list[dict[str, object]] = [
        {
            "way": one.way,
            "s": one.seconds,
            "MB/s": SIZE / one.seconds / 1e6,
            "processor, ms a MiB": one.processor and one.processor / mib * 1000,
            "peak memory, MiB": one.memory,
        }
        for one in found
    ]

    def plot(axes: Axes) -> None:
        axes.barh([one.way for one in found], [SIZE / one.seconds / 1e6 for one in found])
        axes.set_xlabel("MB/s")

    report(
        "mirror",
        rows,
        ["way", "s", "MB/s", "processor, ms a MiB", "peak memory, MiB"],
        f"A layer of {SIZE // 2**20} MiB over the loopback, by curl; the fastest of {ROUNDS} rounds.",
        plot,
        [
            Target("from its cache at least 400 MB/s", f"{rate:.0f} MB/s", rate >= 400),
        ],
    )


if __name__ == "__main__":
    main()
