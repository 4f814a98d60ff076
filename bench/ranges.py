"""One layer over one connection and over several: throttled at the source, and not throttled.

nginx's `limit_rate` counts from the beginning of each request and lets the first second's bytes through at
once: ranges shorter than that are hardly held down. So the same is measured behind a proxy that paces
each connection evenly.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes

from bench.report import SCRATCH, Target, report
from core.blobs.layer_reader import open_layer
from core.blobs.registry import RegistryBlobs
from core.config.config import DockerRegistry
from core.digest import Digest
from core.http.client import HttpClient
from core.layer import Layer
from core.registry.client import RegistryClient
from core.torrents.hashing import hash_layer
from core.torrents.piece_length import piece_length
from tests.servers.cutting_proxy import start_throttling_process
from tests.servers.layers import digest_of, write_layer
from tests.servers.nginx import serve_folder
from tests.servers.push import push_blob
from tests.servers.registry import start_registry

RATE = 20_000_000
THROTTLED_BYTES = 160 * 1024 * 1024
UNTHROTTLED_BYTES = 1024 * 1024 * 1024
CONNECTIONS = (1, 2, 4, 8, 16)
DEFAULT = 8
REPEATS = 5
NGINX = "nginx, limit_rate 20 MB/s"
PACED = "20 MB/s, paced evenly"
UNTHROTTLED = "registry on this machine, not throttled"
SCOPE = "bench/layer"


@dataclass(frozen=True)
class Measured:
    """One way to read the layer from one source; `ratio` is its rate to that of one connection."""

    source: str
    connections: int
    rate: float
    ratio: float


def main() -> None:
    """Measure, and show the results."""
    found = measure()
    ratios = {(one.source, one.connections): one.ratio for one in found}
    report(
        "ranges",
        [
            {"source": one.source, "connections": one.connections, "MB/s": one.rate / 1e6, "ratio": one.ratio}
            for one in found
        ],
        ["source", "connections", "MB/s", "ratio"],
        f"A layer of {THROTTLED_BYTES >> 20} MiB (not throttled: {UNTHROTTLED_BYTES >> 20} MiB) read and "
        "hashed over up to so many connections; ratio to one.",
        lambda axes: draw(axes, found),
        [
            Target(
                f"at least 4 times one connection over {DEFAULT} ({source})",
                f"{ratios[source, DEFAULT]:.1f} times",
                ratios[source, DEFAULT] >= 4,
            )
            for source in (NGINX, PACED)
        ]
        + [
            Target(
                "no slower with more connections allowed, where one does (at least 0.9 of it)",
                f"{ratios[UNTHROTTLED, DEFAULT]:.2f} of it",
                ratios[UNTHROTTLED, DEFAULT] >= 0.9,
            )
        ],
    )


def draw(axes: Axes, found: list[Measured]) -> None:
    """Plot rates over the number of connections."""
    for source in (NGINX, PACED):
        rates = {one.connections: one.rate / 1e6 for one in found if one.source == source}
        axes.plot(list(rates), list(rates.values()), marker="o", label=source)
    axes.set_xscale("log", base=2)
    axes.set_xticks(CONNECTIONS, [str(number) for number in CONNECTIONS])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("connections")
    axes.set_ylabel("MB/s, read and hashed")
    axes.set_title("One layer from a source that throttles each connection")
    axes.grid(alpha=0.3)
    axes.legend()


def measure(
    throttled_bytes: int = THROTTLED_BYTES, unthrottled_bytes: int = UNTHROTTLED_BYTES
) -> list[Measured]:
    """Read and hash layers of that many bytes over 1 to 16 connections from each source."""
    found = []
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=SCRATCH) as folder, HttpClient(2.0, 60.0) as http:
        layer = write_layer(Path(folder, "layer"), throttled_bytes)
        with nginx(Path(folder), layer, RATE) as (url, ref):
            found += over_several(NGINX, registry_at(http, url), ref)
        with (
            nginx(Path(folder), layer, 0) as (url, ref),
            start_throttling_process(Path(folder), url, RATE) as paced,
        ):
            found += over_several(PACED, registry_at(http, paced), ref)
        layer = write_layer(layer, unthrottled_bytes)
        with start_registry(Path(folder, "registry"), access_log=False) as registry:
            push_blob(registry, SCOPE, layer)
            found += unthrottled(registry_at(http, registry.url), ref_of(layer))
    return found


def over_several(source: str, registry: RegistryBlobs, layer: Layer) -> list[Measured]:
    """Return the rate for each number of connections."""
    rates = {connections: rate_of(registry, layer, connections) for connections in CONNECTIONS}
    return [Measured(source, number, rate, rate / rates[1]) for number, rate in rates.items()]


def unthrottled(registry: RegistryBlobs, layer: Layer) -> list[Measured]:
    """Return the rates of one connection and of the default, in turns, as the machine's speed varies."""
    rates: dict[int, list[float]] = {1: [], DEFAULT: []}
    rate_of(registry, layer, 1)  # the file is in memory from now on
    for _ in range(REPEATS):
        for connections, measured in rates.items():
            measured.append(rate_of(registry, layer, connections))
    medians = {connections: statistics.median(measured) for connections, measured in rates.items()}
    return [Measured(UNTHROTTLED, number, rate, rate / medians[1]) for number, rate in medians.items()]


def rate_of(source: RegistryBlobs, layer: Layer, connections: int) -> float:
    """Return the bytes per second of reading and hashing the layer, as brewing does it."""
    size = source.size(layer)
    begun = time.perf_counter()
    with open_layer(source, layer, size, connections) as reader:
        hashes = hash_layer(reader, size, piece_length(size))
    seconds = time.perf_counter() - begun
    if hashes.sha256 != layer.digest.hex:
        raise RuntimeError("the bytes that were read are not the layer's")
    return size / seconds


@contextmanager
def nginx(folder: Path, layer: Path, limit_rate: int) -> Iterator[tuple[str, Layer]]:
    """Serve the layer by nginx at the path of a registry. Yield its URL, and the layer."""
    ref = ref_of(layer)
    root = folder / f"root-{limit_rate}"
    blobs = root / "v2" / SCOPE / "blobs"
    blobs.mkdir(parents=True)
    (blobs / str(ref.digest)).hardlink_to(layer)
    with serve_folder(folder / f"nginx-{limit_rate}", root, limit_rate=limit_rate) as server:
        yield server.url, ref


def registry_at(http: HttpClient, url: str) -> RegistryBlobs:
    """Yield a source that reads from the registry, or a similar server, at `url`."""
    settings = DockerRegistry(host=url.removeprefix("http://"), proto="http")
    return RegistryBlobs(RegistryClient(settings, http))


def ref_of(layer: Path) -> Layer:
    """Return the layer in this file."""
    return Layer(Digest.parse(digest_of(layer)), (SCOPE,), layer.stat().st_size)


if __name__ == "__main__":
    main()
