"""Manifests through the app against the registry itself: requests per second, and what the app adds.

An image of seven layers, all brewed, as in the example of the seed. The clients (wrk), the registry and the
app share the machine's cores; rounds of each take turns, and the median of the rounds is reported.
"""

from __future__ import annotations

import statistics
import tempfile
from contextlib import ExitStack
from pathlib import Path

from matplotlib.axes import Axes

from bench.load import Load, flood, processor_seconds, steady
from bench.report import Target, report
from core.manifests.media_types import DOCKER_MANIFEST
from tests.installation import Installation
from tests.servers.layers import layer_bytes
from tests.servers.process import ServerProcess, free_port, listening
from tests.servers.push import push_image
from tests.servers.registry import Registry, start_registry

CLIENTS = (1, 16, 64)
SECONDS = 4.0
ROUNDS = 5
STEADY_RATE = 100.0
STEADY_SECONDS = 15.0
LAYERS = 7
SCOPE = "library/ubuntu"
PATH = f"/v2/{SCOPE}/manifests/precise"
HEADERS = {"Accept": DOCKER_MANIFEST}
REGISTRY = "registry"


def main() -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "registry").mkdir()
        registry = stack.enter_context(start_registry(folder / "registry", cache=True, access_log=False))
        installation = brewed(folder, registry)
        servers: dict[str, tuple[str, ServerProcess]] = {REGISTRY: (registry.url, registry.process)}
        for workers in (1, 2):
            servers[f"app, {workers} process{'es' * (workers > 1)}"] = start_app(
                stack, installation, registry, workers
            )
        rows = [row for clients in CLIENTS for row in flooded(servers, clients)]
        rows += held_steady(servers)
    columns = ["server", "clients", "requests/s", "of registry", "p50 ms", "p99 ms", "processor µs"]
    least = min(row["of registry"] for row in rows if row["server"] != REGISTRY and row["clients"] != "-")
    added = max(row["p99 ms"] for row in rows if row["clients"] == "-") - min(
        row["p99 ms"] for row in rows if row["clients"] == "-" and row["server"] == REGISTRY
    )
    report(
        "manifests",
        rows,
        columns,
        f"Manifests of {LAYERS} brewed layers, by tag; medians of {ROUNDS} rounds of {SECONDS:g} s. Without "
        f"clients: {STEADY_RATE:g} requests/s, at their moments. Processor time: of registry and app.",
        lambda axes: draw(axes, rows),
        [
            Target("at least 0.40 of the registry's own requests/s", f"{least:.2f} of it", least >= 0.4),
            Target("p99 added under 10 ms at 100 requests/s", f"{added:.1f} ms", added < 10),
        ],
    )


def brewed(folder: Path, registry: Registry) -> Installation:
    """Return an installation that has brewed all layers of the requested image."""
    push_image(registry, SCOPE, "precise", [layer_bytes(10_000, seed) for seed in range(LAYERS)])
    installation = Installation(folder / "installation", registry)
    installation.run("backfill", "repository", SCOPE)
    installation.run("run", "brew")
    return installation


def start_app(
    stack: ExitStack, installation: Installation, registry: Registry, workers: int
) -> tuple[str, ServerProcess]:
    port = free_port()
    own = Installation(
        installation.folder.parent / f"app{workers}",
        registry,
        application={"port": port, "state_dir": str(installation.state)},
    )
    process = own.process("web", "--workers", str(workers), ready=listening(port))
    process.start()
    stack.callback(process.stop)
    return f"http://127.0.0.1:{port}", process


def flooded(servers: dict[str, tuple[str, ServerProcess]], clients: int) -> list[dict[str, object]]:
    rounds: dict[str, list[tuple[Load, float]]] = {name: [] for name in servers}
    registry = servers[REGISTRY][1]
    for number in range(-1, ROUNDS):  # the first is for warming up
        for name, (url, process) in servers.items():
            both = {process.pid, registry.pid}
            before = sum(processor_seconds(pid) for pid in both)
            load = flood(url + PATH, clients, SECONDS if number >= 0 else 1.0, HEADERS)
            spent = sum(processor_seconds(pid) for pid in both) - before
            if number >= 0:
                rounds[name].append((load, spent / (load.rate * SECONDS) * 1e6))
    rows = []
    for name, measured in rounds.items():
        shares = [
            load.rate / direct.rate for (load, _), (direct, _) in zip(measured, rounds[REGISTRY], strict=True)
        ]
        rows.append(
            row_of(name, clients, [load for load, _ in measured])
            | {
                "of registry": statistics.median(shares),
                "processor µs": round(statistics.median(spent for _, spent in measured)),
            }
        )
    return rows


def held_steady(servers: dict[str, tuple[str, ServerProcess]]) -> list[dict[str, object]]:
    rounds: dict[str, list[Load]] = {name: [] for name in servers}
    for _ in range(ROUNDS):
        for name, (url, _) in servers.items():
            rounds[name].append(steady(url + PATH, STEADY_RATE, STEADY_SECONDS / ROUNDS, HEADERS))
    return [row_of(name, "-", loads) for name, loads in rounds.items()]


def row_of(name: str, clients: object, loads: list[Load]) -> dict[str, object]:
    return {
        "server": name,
        "clients": clients,
        "requests/s": round(statistics.median(load.rate for load in loads)),
        "p50 ms": round(statistics.median(load.p50 for load in loads), 2),
        "p99 ms": round(statistics.median(load.p99 for load in loads), 2),
    }


def draw(axes: Axes, rows: list[dict[str, object]]) -> None:
    names = list(dict.fromkeys(str(row["server"]) for row in rows))
    for number, name in enumerate(names):
        rates = [row["requests/s"] for row in rows if row["server"] == name and row["clients"] != "-"]
        positions = [tick + (number - 1) * 0.27 for tick in range(len(CLIENTS))]
        axes.bar(positions, rates, width=0.25, label=name)
    axes.set_xticks(range(len(CLIENTS)), [f"{clients} clients" for clients in CLIENTS])
    axes.set_ylabel("requests/s")
    axes.legend()


if __name__ == "__main__":
    main()
