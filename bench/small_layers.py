"""1,000 small layers from a real registry, brewed on both engines, compared with only fetching and hashing
them.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import requests
from matplotlib.axes import Axes

from bench.report import Target, report
from core.blobs.registry import RegistryBlobs
from core.config.config import DockerRegistry
from core.digest import Digest
from core.http.client import HttpClient
from core.layer import Layer
from core.registry.client import RegistryClient
from core.torrents.store import DirectoryStore
from jobs.brew import brew
from sql.engine import create_engine_for
from sql.enqueue import enqueue_layers
from sql.schema import create_missing
from sql.tables import Priority, build_tables
from sql.transaction import transaction
from tests.servers.layers import layer_bytes
from tests.servers.postgres import start_postgres
from tests.servers.push import Descriptor, push_blob
from tests.servers.registry import Registry, start_registry
from tests.services import service_of

LAYERS = 1_000
SIZE = 4_096
SCOPE = "bench/small"
WORKERS = 4
ROUNDS = 3
TARGET = 0.65


def main() -> None:
    logging.disable(logging.CRITICAL)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("registry", "postgres"):
            (folder / part).mkdir()
        with (
            start_registry(folder / "registry", access_log=False) as registry,
            start_postgres(folder / "postgres", durable=True) as postgres,
        ):
            layers = [push_blob(registry, SCOPE, layer_bytes(SIZE, seed)) for seed in range(LAYERS)]
            for number in range(ROUNDS):
                # In turns, as the machine's speed varies.
                measured: dict[str, Callable[[], float]] = {
                    "fetch and hash only": lambda: fetch(registry, layers),
                    "brew, SQLite": lambda number=number: brewed(
                        registry, layers, f"sqlite:///{folder}/queue{number}.sqlite", folder / f"a{number}"
                    ),
                    "brew, PostgreSQL": lambda number=number: brewed(
                        registry, layers, postgres.create_database(f"round{number}"), folder / f"b{number}"
                    ),
                }
                for what, measure in measured.items():
                    rates.setdefault(what, []).append(LAYERS / measure())
    show_results({what: sorted(found)[len(found) // 2] for what, found in rates.items()})


def fetch(registry: Registry, layers: list[Descriptor]) -> float:
    """Return the seconds to GET every layer over one connection, and to compare its SHA-256."""
    begun = time.perf_counter()
    with requests.Session() as session:
        session.trust_env = False
        for layer in layers:
            content = session.get(f"{registry.url}/v2/{SCOPE}/blobs/{layer.digest}", timeout=10).content
            assert "sha256:" + hashlib.sha256(content).hexdigest() == layer.digest
    return time.perf_counter() - begun


def brewed(registry: Registry, layers: list[Descriptor], url: str, store: Path) -> float:
    """Return the seconds of a run of the job over all layers, with claims, locks, metainfo and commits."""
    engine = create_engine_for(url=url)
    tables = build_tables()
    with transaction(engine) as connection:
        create_missing(connection, tables)
        new = [Layer(Digest.parse(layer.digest), (SCOPE,), layer.size) for layer in layers]
        enqueue_layers(connection, tables, new, priority=Priority.PUSHED, now=int(time.time()))
    client = RegistryClient(DockerRegistry(host=registry.netloc, proto="http"), HttpClient(2, 30))
    parts = {"source": RegistryBlobs(client), "store": DirectoryStore(store), "brewer_name": "bench:1"}
    service = service_of(engine, tables, parts=parts, brewer={"workers": WORKERS})
    begun = time.perf_counter()
    summary = brew(service)
    took = time.perf_counter() - begun
    engine.dispose()
    assert summary.brewed == len(layers), str(summary)
    return took


def show_results(rates: dict[str, float]) -> None:
    base = rates["fetch and hash only"]
    rows = [
        {"what": what, "layers/s": rate, "ratio to fetching": rate / base} for what, rate in rates.items()
    ]

    def plot(axes: Axes) -> None:
        axes.barh(list(rates), list(rates.values()))
        axes.axvline(TARGET * base, linestyle="--", color="gray")
        axes.set_xlabel(f"layers/s (dashed: {TARGET:g} of fetching and hashing, the target)")

    slowest = min(rate for what, rate in rates.items() if what.startswith("brew")) / base
    report(
        "small_layers",
        rows,
        ["what", "layers/s", "ratio to fetching"],
        f"{LAYERS} layers of {SIZE} bytes from docker-registry on the same machine, {WORKERS} workers, "
        f"medians of {ROUNDS} rounds in turns",
        plot,
        [Target(f"at least {TARGET:g} of fetching and hashing alone", f"{slowest:.2f}", slowest >= TARGET)],
    )


if __name__ == "__main__":
    main()
