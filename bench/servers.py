"""The app's server against gunicorn: manifests per second, and the effect of slow clients and of SIGTERM.

`pip install --editable '.[bench]'` installs gunicorn. Each has one worker with as many threads.
Results: docs/decisions/wsgi-server.md.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes

from bench.load import Load, flood, processor_seconds, resident_mib, steady
from bench.manifests import HEADERS, LAYERS, PATH, SCOPE
from bench.report import report
from core.digest import Digest
from core.torrents.capability import mint
from tests.installation import PROGRAM, Installation
from tests.servers.layers import layer_bytes
from tests.servers.process import ServerProcess, free_port
from tests.servers.push import push_image
from tests.servers.registry import Registry, start_registry
from web.limits import THREADS

CLIENTS = (1, 16, 64)
SECONDS = 3.0
ROUNDS = 5
SLOW_CLIENTS = 100
STEADY_RATE = 50.0
LARGE_BYTES = 48 * 1024 * 1024
SECRET = "throw-away secret of the benchmarks"
REPOSITORY = Path(__file__).parents[1]


@dataclass(frozen=True)
class Setting:
    """The environment of the servers."""

    folder: Path
    registry: Registry
    state: Path
    large: str

    def installation(self, name: str, port: int) -> Installation:
        """Write a configuration for one server, with the common database."""
        application = {"port": port, "state_dir": str(self.state)}
        torrents = {"web_seed_secret": SECRET}
        return Installation(self.folder / name, self.registry, application=application, torrents=torrents)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "registry").mkdir()
        with start_registry(folder / "registry", cache=True, access_log=False) as registry:
            setting = prepare(folder, registry)
            rows = [{"server": server} for server in installed()]
            flooded(rows, setting)
            for row in rows:
                row |= measured(str(row["server"]), setting)
    columns = list(rows[0])
    report(
        "servers",
        rows,
        columns,
        f"Manifests of {LAYERS} brewed layers, by one process of {THREADS} threads; medians of {ROUNDS} "
        f"rounds. p99 of {STEADY_RATE:g} requests/s beside {SLOW_CLIENTS} clients that send half a request, "
        "or do not read their answer. SIGTERM during a download.",
        lambda axes: draw(axes, rows),
    )


def installed() -> list[str]:
    """Return the servers to compare, the app's own first."""
    return ["granian", *(["gunicorn"] if importlib.util.find_spec("gunicorn") else [])]


def prepare(folder: Path, registry: Registry) -> Setting:
    large = layer_bytes(LARGE_BYTES, 99)
    push_image(registry, SCOPE, "precise", [layer_bytes(10_000, seed) for seed in range(LAYERS)])
    image = push_image(registry, "library/large", "latest", [large])
    installation = Installation(folder / "brewing", registry)
    installation.run("backfill", "repository", SCOPE, "library/large")
    installation.run("run", "brew")
    return Setting(folder, registry, installation.state, image.layers[0].digest)


def flooded(rows: list[dict[str, object]], setting: Setting) -> None:
    """Measure the manifests per second of each server, in turns, as other load varies."""
    with ExitStack() as stack:
        servers = [stack.enter_context(running(str(row["server"]), setting)) for row in rows]
        for clients in CLIENTS:
            measured: list[list[tuple[Load, float]]] = [[] for _ in rows]
            for number in range(-1, ROUNDS):  # the first is for warming up
                for (port, process), found in zip(servers, measured, strict=True):
                    before = processor_seconds(process.pid)
                    load = flood(f"http://127.0.0.1:{port}{PATH}", clients, SECONDS, HEADERS)
                    spent = processor_seconds(process.pid) - before
                    if number >= 0:
                        found.append((load, spent / (load.rate * SECONDS) * 1e6))
            for row, found in zip(rows, measured, strict=True):
                row[f"requests/s, {clients} clients"] = round(median(load.rate for load, _ in found))
                row[f"p99 ms, {clients}"] = round(median(load.p99 for load, _ in found), 1)
                row[f"processor µs, {clients}"] = round(median(spent for _, spent in found))


def measured(server: str, setting: Setting) -> dict[str, object]:
    """Measure the effect of slow clients on a server, and how it ends."""
    row: dict[str, object] = {}
    with running(server, setting) as (port, process):
        url = f"http://127.0.0.1:{port}{PATH}"
        flood(url, 4, 1.0, HEADERS)
        row["p99 ms alone"] = measured_p99(url)
        with slow_clients(port, f"GET {PATH} HTTP/1.1\r\nHost: a\r\nX-"):
            row["beside slow senders"] = measured_p99(url)
        with slow_clients(port, f"GET {large_path(setting)} HTTP/1.1\r\nHost: a\r\n\r\n"):
            row["beside slow readers"] = measured_p99(url)
            row["MiB then"] = round(resident_mib(process.pid))
    with running(server, setting) as (port, process):
        return row | terminated(port, process, large_path(setting))


@contextmanager
def running(server: str, setting: Setting) -> Iterator[tuple[int, ServerProcess]]:
    port = free_port()
    config = setting.installation(f"{server}-{port}", port).config
    address = f"127.0.0.1:{port}"
    python = Path(sys.executable).parent
    commands: dict[str, list[str | Path]] = {
        "granian": [PROGRAM, "-c", config, "web"],
        "gunicorn": [
            *(python / "gunicorn", "--worker-class=gthread", f"--threads={THREADS}", f"--bind={address}"),
            *("--worker-connections=2000", "--log-level=error", "bench.served_app:app"),
        ],
    }
    process = ServerProcess(
        commands[server],
        ready=answering(port),
        log=config.with_suffix(".log"),
        env={"BENCH_CONFIG": str(config), "PYTHONPATH": str(REPOSITORY)},
        cwd=REPOSITORY,
        grace=30,
    )
    process.start()
    try:
        yield port, process
    finally:
        process.stop()


def answering(port: int) -> Callable[[], bool]:
    """Return whether the server answers: some listen before their workers run."""

    def ready() -> bool:
        connection = HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    return ready


def large_path(setting: Setting) -> str:
    digest = Digest.parse(setting.large)
    capability = mint(SECRET.encode(), digest, "library/large", int(time.time()) + 3600)
    return f"/v0/layers/{capability}/{digest.hex}"


@contextmanager
def slow_clients(port: int, request: str) -> Iterator[None]:
    """Connect clients that send `request` and then neither send nor read."""
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(SLOW_CLIENTS)]
    try:
        for connection in connections:
            connection.sendall(request.encode())
        time.sleep(6)  # until each has received as much as fits into its buffers
        yield
    finally:
        for connection in connections:
            connection.close()
        time.sleep(2)


def measured_p99(url: str) -> object:
    """Return the p99 in ms, or that requests were not answered within 30 s."""
    with suppress(RuntimeError, OSError):
        return round(steady(url, STEADY_RATE, 6.0, HEADERS).p99, 1)
    return "not answered"


def terminated(port: int, process: ServerProcess, path: str) -> dict[str, object]:
    """Return the seconds from SIGTERM to the end, and the share of a download that still arrived."""
    received = 0

    def download() -> None:
        nonlocal received
        with socket.create_connection(("127.0.0.1", port)) as connection, suppress(OSError):
            connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            while part := connection.recv(1 << 20):
                received += len(part)
                time.sleep(len(part) / (LARGE_BYTES / 2.5))

    client = threading.Thread(target=download)
    client.start()
    time.sleep(0.5)
    began = time.monotonic()
    os.kill(process.pid, 15)
    while process.alive and time.monotonic() < began + 30:
        time.sleep(0.02)
    took = time.monotonic() - began
    client.join()
    return {"SIGTERM s": round(took, 1), "download then": f"{min(received / LARGE_BYTES, 1):.0%}"}


def draw(axes: Axes, rows: list[dict[str, object]]) -> None:
    for number, row in enumerate(rows):
        positions = [tick + (number - 1) * 0.27 for tick in range(len(CLIENTS))]
        rates = [row[f"requests/s, {clients} clients"] for clients in CLIENTS]
        axes.bar(positions, rates, width=0.25, label=str(row["server"]))
    axes.set_xticks(range(len(CLIENTS)), [f"{clients} clients" for clients in CLIENTS])
    axes.set_ylabel("requests/s")
    axes.legend()


if __name__ == "__main__":
    main()
