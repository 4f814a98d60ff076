"""A layer as a web seed of this app, from a directory and from the registry, compared with nginx.

Whole downloads, and pieces as torrent clients request them: ranges of 1 MiB, one after the other on a
persistent connection. The file is in memory after the first round, so the processor is measured, which
the clients share.
"""

from __future__ import annotations

import multiprocessing
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import libtorrent
import requests
from matplotlib.axes import Axes

from bench.report import Target, report
from tests.installation import Installation
from tests.servers.layers import write_layer
from tests.servers.nginx import serve_folder
from tests.servers.process import free_port, listening
from tests.servers.push import push_image
from tests.servers.registry import Registry, start_registry

SIZE = 256 * 1024 * 1024
PIECE = 1024 * 1024
CLIENTS = (1, 8, 32)
REQUESTS_A_CONNECTION = 500
"""nginx closes a connection after 1,000."""
SECONDS = 3.0
ROUNDS = 3
SCOPE = "bench/layer"
NGINX = "nginx"
REGISTRY = "the registry itself"
FROM_DIRECTORY = "this app, from a directory"


@dataclass(frozen=True)
class Measured:
    """Bytes per second of all clients together."""

    server: str
    what: str
    clients: int
    rate: float


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        layer = write_layer(folder / "layer", SIZE)
        (folder / "registry").mkdir()
        with (
            start_registry(folder / "registry", access_log=False) as registry,
            serve_folder(folder / "nginx", folder) as nginx,
        ):
            image = push_image(registry, SCOPE, "v1", [layer])
            digest = image.layers[0].digest
            directory = {"source": "directory", "directory": str(registry.storage)}
            with (
                served(folder / "a", registry, digest, directory) as from_directory,
                served(folder / "b", registry, digest, {"source": "registry"}) as from_registry,
            ):
                urls = {
                    NGINX: f"{nginx.url}/layer",
                    REGISTRY: f"{registry.url}/v2/{SCOPE}/blobs/{digest}",
                    FROM_DIRECTORY: from_directory,
                    "this app, from the registry": from_registry,
                }
                show_results(measure(urls))


@contextmanager
def served(folder: Path, registry: Registry, digest: str, layers: dict[str, str]) -> Iterator[str]:
    """Yield the URL of the layer's web seed at an app with these `layers`."""
    port = free_port()
    installation = Installation(
        folder,
        registry,
        application={"port": port, "public_url": f"http://127.0.0.1:{port}"},
        layers=layers,
    )
    installation.run("backfill", "repository", SCOPE)
    installation.run("run", "brew")
    web = installation.process("web", ready=listening(port), name="web")
    web.start()
    try:
        torrent = requests.get(f"http://127.0.0.1:{port}/v0/torrents/{SCOPE}/{digest}", timeout=20)
        torrent.raise_for_status()
        [url] = libtorrent.load_torrent_buffer(torrent.content).url_seeds
        yield url
    finally:
        web.stop()


def measure(urls: dict[str, str], seconds: float = SECONDS, rounds: int = ROUNDS) -> list[Measured]:
    """Return the median of some rounds for each server, way and number of clients; servers in turns."""
    found = []
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for what in ("whole", "pieces"):
            for clients in CLIENTS:
                rates: dict[str, list[float]] = {server: [] for server in urls}
                for _ in range(rounds):
                    for server, url in urls.items():
                        rates[server].append(pool.apply(download, (url, what, clients, seconds)))
                found += [
                    Measured(server, what, clients, statistics.median(each)) for server, each in rates.items()
                ]
    return found


def download(url: str, what: str, clients: int, seconds: float) -> float:
    """Return the bytes per second that `clients` read from `url`, for about `seconds`."""
    received = [0] * clients
    until = time.monotonic() + seconds

    def read(client: int) -> None:
        buffer = bytearray(PIECE)
        host, _, port = urlsplit(url).netloc.partition(":")
        number = client * 7
        while time.monotonic() < until:
            with socket.create_connection((host, int(port))) as connection:
                for _ in range(REQUESTS_A_CONNECTION):
                    start = number * PIECE % SIZE
                    number += 1
                    wanted = "" if what == "whole" else f"Range: bytes={start}-{start + PIECE - 1}\r\n"
                    head = f"GET {urlsplit(url).path} HTTP/1.1\r\nHost: bench\r\n{wanted}\r\n"
                    connection.sendall(head.encode())
                    for count in body_of(connection, buffer, SIZE if what == "whole" else PIECE):
                        received[client] += count
                        if time.monotonic() > until:
                            return

    threads = [threading.Thread(target=read, args=(client,)) for client in range(clients)]
    begun = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(received) / (time.monotonic() - begun)


def body_of(connection: socket.socket, buffer: bytearray, size: int) -> Iterator[int]:
    """Yield how many of the answer's `size` bytes each read returned."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = connection.recv(4096)
        if not part:
            raise ConnectionError(f"closed after {head!r}")
        head += part
    status, _, rest = head.partition(b"\r\n\r\n")
    if status.split()[1] not in (b"200", b"206"):
        raise ConnectionError(f"refused: {status!r}")
    left = size - len(rest)
    yield len(rest)
    while left:
        count = connection.recv_into(buffer, min(left, len(buffer)))
        if not count:
            raise ConnectionError("closed in the middle")
        left -= count
        yield count


def show_results(found: list[Measured]) -> None:
    base = {(one.what, one.clients): one.rate for one in found if one.server == NGINX}
    rows = [
        {
            "server": one.server,
            "download": one.what,
            "clients": one.clients,
            "MB/s": one.rate / 1e6,
            "ratio to nginx": one.rate / base[one.what, one.clients],
        }
        for one in found
    ]

    def plot(axes: Axes) -> None:
        for server in dict.fromkeys(one.server for one in found):
            mine = [one for one in found if one.server == server and one.what == "pieces"]
            axes.plot(
                [one.clients for one in mine], [one.rate / 1e6 for one in mine], marker="o", label=server
            )
        axes.set_xlabel("clients that request pieces of 1 MiB")
        axes.set_ylabel("MB/s, all clients together")
        axes.set_ylim(bottom=0)
        axes.legend()

    pieces = {
        (one.server, one.clients): one.rate
        for one in found
        if one.what == "pieces" and one.server in (FROM_DIRECTORY, REGISTRY)
    }
    ratio = min(pieces[FROM_DIRECTORY, clients] / pieces[REGISTRY, clients] for clients in CLIENTS)
    report(
        "web_seed",
        rows,
        ["server", "download", "clients", "MB/s", "ratio to nginx"],
        f"A layer of {SIZE // 2**20} MiB, whole and in pieces of {PIECE // 2**20} MiB, "
        f"medians of {ROUNDS} rounds of {SECONDS:g} s in turns, clients on the same cores",
        plot,
        [
            Target(
                "pieces from a directory as fast as from the registry",
                f"{ratio:.1f} times",
                ratio >= 1,
            )
        ],
    )


if __name__ == "__main__":
    main()
