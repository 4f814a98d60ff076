"""Events committed to PostgreSQL by one process of the web app, and the time until registries get their OK.

Each client is a registry: it sends its events one after the other, over a persistent connection. The
server flushes each commit to the disk, as a real one does. Every event names new layers, and at the
end all of them are counted in the database.
"""

from __future__ import annotations

import json
import multiprocessing
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from matplotlib.axes import Axes

from bench.report import Target, report
from tests.installation import Installation
from tests.servers.postgres import PostgresServer, start_postgres
from tests.servers.process import free_port, listening

SECONDS = 5.0
CLIENTS = (1, 4, 16, 64)
LAYERS = 5
KEY = "bench"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
TARGET = 500.0
KINDS = {
    "to resolve": "image without references",
    "5 layers": "image with 5 new layers",
    "known": "image with 5 known layers",
}


@dataclass(frozen=True)
class Measured:
    """The results of `clients` registries. Times are milliseconds."""

    kind: str
    clients: int
    per_second: float
    median: float
    p99: float
    slowest: float
    lost: int


def measure(seconds: float = SECONDS, clients: tuple[int, ...] = CLIENTS) -> list[Measured]:
    """Measure each kind of event with each number of concurrent clients, for `seconds` each."""
    found = []
    with (
        tempfile.TemporaryDirectory() as name,
        start_postgres(Path(name, "postgres"), durable=True) as postgres,
    ):
        for kind in KINDS:
            for number in clients:
                found.append(_measure(Path(name), postgres, kind, number, seconds))
    return found


def _measure(folder: Path, postgres: PostgresServer, kind: str, clients: int, seconds: float) -> Measured:
    name = f"bench_{clients}_{list(KINDS).index(kind)}"
    url = postgres.create_database(name)
    port = free_port()
    installation = Installation(
        folder / name,
        "127.0.0.1:1",
        application={"port": port, "event_authorization": KEY},
        db={"url": url},
    )
    installation.run("role", "grant", "bench/*")
    web = installation.process("web", ready=listening(port), name="web")
    web.start()
    try:
        _send(port, kind, clients, 1.0, "warm")
        took = _send(port, kind, clients, seconds, "timed")
    finally:
        web.stop()
    lost = _expected(took, kind) - _counted(url, kind, "timed")
    postgres.drop_database(name)
    times = sorted(one for each in took for one in each)
    return Measured(
        kind,
        clients,
        per_second=len(times) / seconds,
        median=statistics.median(times) * 1000,
        p99=times[int(len(times) * 0.99)] * 1000,
        slowest=times[-1] * 1000,
        lost=lost,
    )


def _send(port: int, kind: str, clients: int, seconds: float, run: str) -> list[list[float]]:
    """Return the seconds of each event, client by client. The clients run in a separate process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        took: list[list[float]] = pool.apply(_clients, (port, kind, clients, seconds, run))
        return took


def _clients(port: int, kind: str, clients: int, seconds: float, run: str) -> list[list[float]]:
    took: list[list[float]] = [[] for _ in range(clients)]
    until = time.monotonic() + seconds

    def send(client: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for request in _requests(kind, f"bench/{run}-{client}"):
                begun = time.monotonic()
                if begun >= until:
                    return
                connection.sendall(request)
                answer = connection.recv(4096)
                while not answer.endswith(b"\r\n\r\nOK"):
                    part = connection.recv(4096)
                    if not part or not answer.startswith(b"HTTP/1.1 200"):
                        raise AssertionError(f"not accepted: {answer!r}")
                    answer += part
                took[client].append(time.monotonic() - begun)

    threads = [threading.Thread(target=send, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


def _requests(kind: str, scope: str) -> Iterator[bytes]:
    number = 0
    while True:
        body = json.dumps({"events": [_event(kind, scope, number)]}, indent=3).encode()
        head = (
            "POST /v0/event HTTP/1.1\r\nHost: bench\r\n"
            "Content-Type: application/vnd.docker.distribution.events.v1+json\r\n"
            f"Authorization: {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        yield head.encode() + body
        number += 1


def _event(kind: str, scope: str, number: int) -> dict[str, object]:
    start = hash(scope) % 2**60 * 2**64 + number * 100

    def described(offset: int, media_type: str) -> dict[str, object]:
        return {"mediaType": media_type, "size": 1000, "digest": f"sha256:{start + offset:064x}"}

    target = {**described(0, MANIFEST), "length": 1000, "repository": scope, "tag": str(number)}
    if kind != "to resolve":
        if kind == "known":
            start = hash(scope) % 2**60 * 2**64
        layers = [described(2 + offset, LAYER) for offset in range(LAYERS)]
        target["references"] = [described(1, CONFIG), *layers]
    return {
        "id": f"{scope}-{number}",
        "timestamp": "2006-01-02T15:04:05Z",
        "action": "push",
        "target": target,
        "request": {
            "id": "a",
            "addr": "192.0.2.1",
            "host": "registry",
            "method": "PUT",
            "useragent": "docker",
        },
        "actor": {},
        "source": {"addr": "registry:5000", "instanceID": "b"},
    }


def _expected(took: list[list[float]], kind: str) -> int:
    events = sum(map(len, took))
    if kind == "known":
        return sum(LAYERS for each in took if each)
    return events * (1 if kind == "to resolve" else LAYERS)


def _counted(url: str, kind: str, run: str) -> int:
    table = "manifest" if kind == "to resolve" else "scope"
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg2:"), poolclass=sa.NullPool)
    with engine.connect() as connection:
        like = {"scope": f"bench/{run}-%"}
        counted = connection.execute(
            sa.text(f"SELECT count(*) FROM rbtorrent_mapping_{table} WHERE scope LIKE :scope"), like
        )
        return int(counted.scalar_one())


def main() -> None:
    show_results(measure())


def show_results(found: list[Measured]) -> None:
    rows = [
        {
            "event": KINDS[one.kind],
            "registries": one.clients,
            "events/s": one.per_second,
            "median ms": one.median,
            "p99 ms": one.p99,
            "slowest ms": one.slowest,
            "lost": one.lost,
        }
        for one in found
    ]

    def plot(axes: Axes) -> None:
        for kind in KINDS:
            mine = [one for one in found if one.kind == kind]
            axes.plot(
                [one.clients for one in mine], [one.per_second for one in mine], marker="o", label=KINDS[kind]
            )
        axes.axhline(TARGET, linestyle="--", color="gray")
        axes.set_xscale("log", base=2)
        axes.set_xlabel("registries that send events concurrently")
        axes.set_ylabel(f"events committed a second (dashed: {TARGET:g}, the target)")
        axes.set_ylim(bottom=0)
        axes.legend()

    best = {kind: max(one.per_second for one in found if one.kind == kind) for kind in KINDS}
    slowest = max(one.slowest for one in found)
    lost = sum(one.lost for one in found)
    report(
        "events",
        rows,
        list(rows[0]),
        f"One process of the web app, PostgreSQL with fsync, each event with its own layers, "
        f"{SECONDS:g} s each; registries and database on the same cores",
        plot,
        [
            Target(
                f"at least {TARGET:g} events/s committed by one process",
                ", ".join(f"{KINDS[kind]} {rate:.0f}/s" for kind, rate in best.items()),
                min(best.values()) >= TARGET,
            ),
            Target("none lost", f"{lost} lost", lost == 0),
            Target("answered within 1 s under load", f"slowest {slowest:.0f} ms", slowest < 1000),
        ],
    )


if __name__ == "__main__":
    main()
