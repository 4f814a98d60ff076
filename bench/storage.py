"""`backfill storage` over 100,000 blobs, for the first time and again, compared with only walking and
reading.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa
from matplotlib.axes import Axes

from bench.report import report
from bench.timed import timed
from core.blobs.directory import DirectoryBlobs
from jobs.backfill_storage import StorageScan, StorageSummary, backfill_storage
from sql.engine import create_engine_for
from sql.schema import create_missing
from sql.tables import build_tables
from sql.transaction import transaction
from tests.layer_backends import TEMPLATE
from tests.servers.moto import start_moto
from tests.servers.postgres import start_postgres
from tests.services import service_of
from tests.storage_backends import blob_path_of, s3_storage_backend

BLOBS = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
# moto, a server in Python, takes most of the time there.
S3_BLOBS = min(BLOBS, 2_000)
REPOSITORIES = 200
# Of ten blobs, two are manifests and one is a config.
OTHERS = 3


def main() -> None:
    logging.disable(logging.CRITICAL)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "postgres").mkdir()
        storage = folder / "storage"
        fill(storage, BLOBS)
        print("filled", file=sys.stderr)
        base, _ = timed(lambda: walk_and_read(storage))
        rows.append(row("directory", "walk and read only", BLOBS, base, base))
        with start_postgres(folder / "postgres", durable=True) as postgres:
            urls = {
                "PostgreSQL": postgres.create_database("storage"),
                "SQLite": f"sqlite:///{folder / 'storage.sqlite'}",
            }
            for engine_name, url in urls.items():
                with scan_of(storage, url) as scan:
                    for what, expected in (("first time", layers_in(BLOBS)), ("again", 0)):
                        took, grown = timed(lambda scan=scan, expected=expected: run(scan, expected))
                        rows.append(row("directory", f"{what}, {engine_name}", BLOBS, took, base, grown))
        with start_moto(folder) as moto, s3_storage_backend(moto, moto.create_bucket()) as backend:
            for number in range(S3_BLOBS):
                content = content_of(number)
                backend.put(blob_path_of(hashlib.sha256(content).hexdigest()), content)
            url = f"sqlite:///{folder / 's3.sqlite'}"
            with scan_of(storage, url, connections=1) as scan:
                alone = replace(scan, storage=backend.storage, dry_run=True)
                one_by_one, _ = timed(lambda: run(alone, layers_in(S3_BLOBS)))
            with scan_of(storage, url, connections=8) as scan:
                together = replace(scan, storage=backend.storage)
                took, grown = timed(lambda: run(together, layers_in(S3_BLOBS)))
                rows.append(row("S3", "dry, 1 connection", S3_BLOBS, one_by_one, one_by_one))
                rows.append(row("S3", "first time, 8 connections", S3_BLOBS, took, one_by_one, grown))
    show_results(rows)


def content_of(number: int) -> bytes:
    """Return a small blob: a layer, or JSON."""
    if number % 10 < OTHERS:
        return b'{"schemaVersion": 2, "number": %d}' % number
    return b"\x1f\x8b" + number.to_bytes(8, "big") * 80


def layers_in(blobs: int) -> int:
    return sum(number % 10 >= OTHERS for number in range(blobs))


def fill(storage: Path, blobs: int) -> None:
    """Write a registry's storage tree, each blob in one repository."""
    for number in range(blobs):
        content = content_of(number)
        hex_digits = hashlib.sha256(content).hexdigest()
        repository = f"docker/registry/v2/repositories/team/app{number % REPOSITORIES}"
        link = f"{repository}/_layers/sha256/{hex_digits}/link"
        for path, body in ((blob_path_of(hex_digits), content), (link, f"sha256:{hex_digits}".encode())):
            file = storage / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(body)


def walk_and_read(storage: Path) -> None:
    """Do the minimum: list all names, and read the first bytes of each blob."""
    for folder, _, files in os.walk(storage):
        for name in files:
            if name == "data":
                with open(f"{folder}/{name}", "rb", buffering=0) as file:
                    file.read(512)


@contextmanager
def scan_of(storage: Path, url: str, connections: int = 8) -> Iterator[StorageScan]:
    engine = create_engine_for(url=url)
    tables = build_tables()
    with transaction(engine) as connection:
        create_missing(connection, tables)
    service = service_of(
        engine, tables, db={"blob_path_template": TEMPLATE}, layers={"connections": connections}
    )
    yield StorageScan(service, DirectoryBlobs(storage, TEMPLATE))
    with transaction(engine) as connection:
        links = connection.scalars(sa.select(sa.func.count()).select_from(tables.scope)).one()
        assert links in (0, layers_in(BLOBS)), links
    engine.dispose()


def run(scan: StorageScan, expected: int) -> StorageSummary:
    summary = backfill_storage(scan)
    assert summary.queued == expected, str(summary)
    assert not summary.failed, str(summary)
    return summary


def row(
    storage: str, what: str, blobs: int, seconds: float, base: float, grown: float | None = None
) -> dict[str, object]:
    return {
        "storage": storage,
        "what": what,
        "blobs": blobs,
        "seconds": seconds,
        "blobs/s": blobs / seconds,
        "ratio": seconds / base,
        "MiB": grown,
    }


def show_results(rows: list[dict[str, object]]) -> None:
    def plot(axes: Axes) -> None:
        axes.barh([f"{row['storage']}: {row['what']}" for row in rows], [row["blobs/s"] for row in rows])  # type: ignore[misc]
        axes.set_xlabel("blobs/s")

    report(
        "storage",
        rows,
        ["storage", "what", "blobs", "seconds", "blobs/s", "ratio", "MiB"],
        f"{BLOBS:,} blobs, 7 of 10 layers, in {REPOSITORIES} repositories; ratio is to the first row of each "
        "storage, MiB how far the process grew",
        plot,
    )


if __name__ == "__main__":
    main()
