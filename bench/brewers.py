"""1, 2 and 4 brewer processes on one queue: PostgreSQL through PgBouncer, layers and metainfo in one S3.

The S3 (moto) is a Python process on the same machine and reaches its limit first, so the rate of the same
requests without brewing is measured too.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import sqlalchemy as sa
from botocore.config import Config as S3Config
from matplotlib.axes import Axes

from bench.report import Target, report
from core.blobs.storage_layout import blob_path
from core.digest import Digest
from core.layer import Layer
from sql.engine import create_engine_for
from sql.enqueue import enqueue_layers
from sql.tables import Priority, build_tables
from sql.transaction import reading, transaction
from tests.installation import Installation
from tests.servers.layers import layer_bytes
from tests.servers.moto import Moto, start_moto
from tests.servers.pgbouncer import PgBouncer, start_pgbouncer
from tests.servers.postgres import OwnPostgres, start_postgres
from tests.servers.process import ServerProcess

BREWERS = (1, 2, 4)
LAYERS = 2_000
SIZE = 64 * 1024
ROUNDS = 3
WORKERS = 4
SCOPE = "bench/brewers"
TEMPLATE = "/docker/registry/v2/blobs/sha256/{short_digest}/{full_digest}/data"
EXPECTED = 3.0
TIMEOUT = 600.0
IDLE = {"interval": 0}


@dataclass
class Bench:
    """The servers, and the layers in their S3."""

    folder: Path
    postgres: OwnPostgres
    pgbouncer: PgBouncer
    moto: Moto
    layers: list[Layer] = field(default_factory=list)

    def puts(self, bucket: str) -> Counter[str]:
        """Return how often each key of a bucket was written, by the server's log."""
        log = (self.folder / "moto" / "moto.log").read_text(errors="replace")
        return Counter(re.findall(rf'"PUT /{bucket}/(\S+\.torrent) HTTP', log))


@dataclass(frozen=True)
class Run:
    """The results of emptying the queue once."""

    rate: float
    twice: int
    shares: dict[str, int]


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m bench.brewers", description=__doc__)
    arguments.add_argument("--layers", type=int, default=LAYERS, help="layers (%(default)s)")
    arguments.add_argument("--rounds", type=int, default=ROUNDS, help="rounds (%(default)s)")
    options = arguments.parse_args()
    runs: dict[int, list[Run]] = {count: [] for count in BREWERS}
    plain: list[float] = []
    with started() as bench:
        bench.layers = upload(bench, options.layers)
        for number in range(options.rounds):
            # In turns, so that other load on the machine affects all of them.
            plain.append(requests_alone(bench))
            for count in BREWERS:
                runs[count].append(brewed(bench, count, f"brew{count}r{number}"))
    show_results(runs, plain, options.layers)


@contextmanager
def started() -> Iterator[Bench]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "postgres").mkdir()
        postgres = stack.enter_context(start_postgres(folder / "postgres", durable=True))
        pgbouncer = start_pgbouncer(folder / "pgbouncer", postgres, pool_mode="transaction", pool_size=20)
        yield Bench(
            folder,
            postgres,
            stack.enter_context(pgbouncer),
            stack.enter_context(start_moto(folder / "moto")),
        )


def upload(bench: Bench, count: int) -> list[Layer]:
    """Put the layers into a bucket, laid out as by a registry."""
    bench.moto.create_bucket("registry")
    layers = []
    with bench.moto.client() as client:
        for seed in range(count):
            data = layer_bytes(SIZE, seed)
            layer = Layer(Digest(hashlib.sha256(data).hexdigest()), (SCOPE,), len(data))
            key = blob_path(TEMPLATE, layer.digest).lstrip("/")
            client.put_object(Bucket="registry", Key=key, Body=data)
            layers.append(layer)
    return layers


def requests_alone(bench: Bench) -> float:
    """Return the layers a second of S3 alone: reading each layer and writing a torrent, without brewing."""
    bucket = bench.moto.create_bucket()
    client = boto3.client(
        "s3",
        endpoint_url=bench.moto.endpoint,
        region_name=bench.moto.region,
        aws_access_key_id=bench.moto.access_key,
        aws_secret_access_key=bench.moto.secret_key,
        config=S3Config(max_pool_connections=2 * WORKERS),
    )

    def one(layer: Layer) -> None:
        key = blob_path(TEMPLATE, layer.digest).lstrip("/")
        client.get_object(Bucket="registry", Key=key)["Body"].read()
        client.put_object(Bucket=bucket, Key=layer.digest.hex, Body=b"x" * 300)

    begun = time.perf_counter()
    with ThreadPoolExecutor(2 * WORKERS) as pool:
        list(pool.map(one, bench.layers))
    took = time.perf_counter() - begun
    client.close()
    return len(bench.layers) / took


def brewed(bench: Bench, brewers: int, name: str) -> Run:
    """Empty a queue of all layers with that many processes, which run before it is filled."""
    bench.postgres.create_database(name)
    bucket = bench.moto.create_bucket(name)
    s3 = {
        "endpoint_url": bench.moto.endpoint,
        "region": bench.moto.region,
        "bucket": bucket,
        "access_key": bench.moto.access_key,
        "secret_key": bench.moto.secret_key,
    }
    processes: list[ServerProcess] = []
    installations = [
        Installation(
            bench.folder / f"{name}-{number}",
            "127.0.0.1:1",
            db={"url": bench.pgbouncer.url(name)},
            layers={"source": "s3", "bucket": "registry"},
            torrents={"store": "s3"},
            s3=s3,
            brewer={"workers": WORKERS, "sleep_time": 0.1},
            jobs=dict.fromkeys(("release-locks", "resolve-manifests", "scan-tags", "prune"), IDLE),
        )
        for number in range(brewers)
    ]
    installations[0].run("init-db")
    engine, tables = create_engine_for(url=bench.postgres.url(name)), build_tables()
    waiting = sa.select(sa.func.count()).where(tables.mapping.c.brewed.is_(None))
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        for installation in installations:
            log = installation.folder / "program.log"
            ready = lambda log=log: log.is_file() and b"scheduler started" in log.read_bytes()  # noqa: E731
            process = installation.process("scheduler", ready=ready)
            stack.callback(process.stop)
            processes.append(process)
            process.start()
        with transaction(engine) as connection:
            enqueue_layers(connection, tables, bench.layers, priority=Priority.PUSHED, now=int(time.time()))
        begun = time.perf_counter()
        while True:
            with reading(engine) as connection:
                left = connection.scalars(waiting).one()
            took = time.perf_counter() - begun
            if not left:
                break
            if took > TIMEOUT or not all(process.alive for process in processes):
                raise SystemExit(f"{left} of {len(bench.layers)} layers are not brewed after {took:.0f} s")
            time.sleep(0.02)
        with reading(engine) as connection:
            by = sa.select(tables.queue.c.brewer, sa.func.count()).group_by(tables.queue.c.brewer)
            shares = {str(brewer): int(count) for brewer, count in connection.execute(by)}
    puts = bench.puts(name)
    if len(puts) != len(bench.layers):
        raise SystemExit(f"{len(puts)} torrents were written for {len(bench.layers)} layers")
    return Run(len(bench.layers) / took, sum(count - 1 for count in puts.values()), shares)


def show_results(runs: dict[int, list[Run]], plain: list[float], layers: int) -> None:
    alone = statistics.median(plain)
    rates = {count: statistics.median(run.rate for run in found) for count, found in runs.items()}
    rows: list[dict[str, object]] = [
        {
            "brewers": count,
            "layers/s": rate,
            "times one": rate / rates[BREWERS[0]],
            "of S3 alone": rate / alone,
            "brewed twice": max(run.twice for run in runs[count]),
            "smallest share": min(min(run.shares.values()) / layers for run in runs[count]),
        }
        for count, rate in rates.items()
    ]
    rows.append({"brewers": "S3 alone", "layers/s": alone, "of S3 alone": 1.0})
    twice = sum(run.twice for found in runs.values() for run in found)
    most = rates[BREWERS[-1]]

    def plot(axes: Axes) -> None:
        axes.plot(list(rates), list(rates.values()), marker="o", label="brewed")
        axes.plot(list(rates), [rates[1] * count for count in rates], ":", label="as many times one")
        axes.axhline(alone, linestyle="--", color="grey", label="requests to S3 alone")
        axes.set(xlabel="brewer processes", ylabel="layers/s", ylim=(0, None), xticks=list(rates))
        axes.legend()

    report(
        "brewers",
        rows,
        ["brewers", "layers/s", "times one", "of S3 alone", "brewed twice", "smallest share"],
        f"{layers} layers of {SIZE // 1024} KiB, `scheduler` processes of {WORKERS} workers, PostgreSQL "
        f"with fsync through PgBouncer (transaction mode), S3 by moto; medians of {len(plain)} "
        "rounds in turns, everything on one machine.",
        plot,
        [
            Target("no layer brewed twice", f"{twice} twice", twice == 0),
            Target(
                f"{BREWERS[-1]} brewers at least {EXPECTED:g} times one, where cores allow",
                f"{most / rates[BREWERS[0]]:.2f} times, {most / alone:.2f} of what S3 serves alone",
                most / rates[BREWERS[0]] >= EXPECTED,
            ),
        ],
    )


if __name__ == "__main__":
    main()
