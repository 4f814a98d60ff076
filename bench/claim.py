"""Claims of 10 layers from queues of 10 thousand to 10 million rows on PostgreSQL: few or all of them
waiting.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from matplotlib.axes import Axes
from sqlalchemy.schema import CreateTable

from bench.report import Target, report
from core.errors import DatabaseDown
from sql.claims import claim_layers, complete_layer
from sql.engine import create_engine_for
from sql.schema import create_missing
from sql.tables import Tables, build_tables
from sql.transaction import transaction
from tests.servers.postgres import OwnPostgres, start_postgres

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
CHUNK = 10
CLAIMS = 150
WARM_UP = 10
COUNTED = 20
TARGET = 2.0
FILL_SECONDS = 1200
ROOM_FOR_A_ROW = 1_200  # bytes, of which it takes about half
EPOCH = 1_700_000_000
SETTINGS = {
    "shared_buffers": "1GB",
    "maintenance_work_mem": "512MB",
    # Tables that are created and filled in one transaction are not logged then.
    "wal_level": "minimal",
    "max_wal_senders": "0",
}
SHAPES = {"mostly brewed": CHUNK * (CLAIMS + WARM_UP + COUNTED) * 2, "all waiting": None}

# In the order of time, as a service fills them; digests of adjacent rows are far apart.
DIGEST = "'sha256:' || encode(sha256(n::text::bytea), 'hex')"
FILLS = (
    """
    INSERT INTO {mapping} (digest, rbtorrent_id, added, brewed)
    SELECT {digest}, CASE WHEN n <= :brewed THEN 'rbtorrent:' || right({digest}, 40) END,
           :epoch + n, CASE WHEN n <= :brewed THEN :epoch + n END
    FROM generate_series(1, :size) n
    """,
    """
    INSERT INTO {queue} (digest, size, priority, added, next_try)
    SELECT {digest}, n, mod(n, 4), :epoch + n, CASE WHEN n <= :brewed THEN NULL ELSE 0 END
    FROM generate_series(1, :size) n
    """,
)


@dataclass(eq=False)
class Queue:
    """A database with `size` rows, of which `waiting` wait; times of its claims in milliseconds."""

    shape: str
    size: int
    waiting: int
    engine: sa.Engine
    tables: Tables
    fill_seconds: float = 0.0
    whole: list[float] = field(default_factory=list)
    in_database: list[float] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    _spent: float = 0.0

    def claim(self, now: int, *, timed: bool = False, counted: bool = False) -> None:
        """Claim layers and complete them. `timed` records the claim's time, `counted` its pages."""
        before = self._pages_so_far() if counted else 0
        self._spent = 0.0
        began = time.perf_counter()
        with transaction(self.engine) as connection:
            claims = claim_layers(connection, self.tables, now=now, limit=CHUNK, brewer="bench:1")
        took = time.perf_counter() - began
        if len(claims) != CHUNK:
            raise RuntimeError(f"{len(claims)} layers claimed of {self.shape} {self.size}, not {CHUNK}")
        if timed:
            self.whole.append(took * 1000)
            self.in_database.append(self._spent * 1000)
        if counted:
            self.pages.append(self._pages_so_far() - before)
        for claim in claims:
            rbtorrent_id = "rbtorrent:" + claim.digest.hex[:40]
            with transaction(self.engine) as connection:
                complete_layer(connection, self.tables, claim, rbtorrent_id=rbtorrent_id, size=1, now=now)

    def _pages_so_far(self) -> int:
        """Return how many pages (8 KiB) were accessed so far, in memory or on disk."""
        with self.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
            return connection.scalars(
                sa.text(
                    "SELECT blks_hit + blks_read FROM pg_stat_database WHERE datname = current_database()"
                )
            ).one()

    def watch(self) -> None:
        """Record how long each statement takes in the driver."""

        def before(connection: sa.Connection, *_: object) -> None:
            connection.info["began"] = time.perf_counter()

        def after(connection: sa.Connection, *_: object) -> None:
            self._spent += time.perf_counter() - connection.info["began"]

        sa.event.listen(self.engine, "before_cursor_execute", before)
        sa.event.listen(self.engine, "after_cursor_execute", after)

    def fill(self) -> None:
        """Insert the rows and index them, in the fastest way. Raises DatabaseDown if it takes too long."""
        began = time.monotonic()
        names = {"mapping": self.tables.mapping.name, "queue": self.tables.queue.name}
        numbers = {"epoch": EPOCH, "size": self.size, "brewed": self.size - self.waiting}
        with transaction(self.engine) as connection:
            connection.execute(sa.text(f"SET LOCAL statement_timeout = '{FILL_SECONDS}s'"))
            for table in self.tables.metadata.sorted_tables:
                connection.execute(CreateTable(table))
            for name in names.values():
                connection.execute(sa.text(f"ALTER TABLE {name} DROP CONSTRAINT {name}_pkey"))
            for fill in FILLS:
                connection.execute(sa.text(fill.format(**names, digest=DIGEST)), numbers)
            for name in names.values():
                connection.execute(sa.text(f"ALTER TABLE {name} ADD PRIMARY KEY (digest)"))
            create_missing(connection, self.tables)
        with self.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))
            connection.execute(sa.text("CHECKPOINT"))
        self.fill_seconds = time.monotonic() - began


def main() -> None:
    arguments = argparse.ArgumentParser(prog="python -m bench.claim", description=__doc__)
    arguments.add_argument("sizes", nargs="*", type=int, default=SIZES, help="rows (%(default)s)")
    sizes = sorted(arguments.parse_args().sizes)
    with (
        tempfile.TemporaryDirectory() as name,
        start_postgres(Path(name), settings=SETTINGS) as server,
        filled(server, Path(name), sizes) as queues,
    ):
        for number in range(WARM_UP + CLAIMS):
            # In turns, so that other load on the machine affects all of them.
            for queue in queues:
                queue.claim(EPOCH * 2 + number, timed=number >= WARM_UP)
        for queue in queues:
            for number in range(COUNTED):
                queue.claim(EPOCH * 3 + number, counted=True)
    show_results(queues)


@contextmanager
def filled(server: OwnPostgres, folder: Path, sizes: list[int]) -> Iterator[list[Queue]]:
    """Yield a queue of each shape and size. Print which are skipped for lack of space or time."""
    queues: list[Queue] = []
    with ExitStack() as stack:
        for shape, waiting in SHAPES.items():
            for size in sizes:
                name = f"{shape}, {size:,} rows"
                if shutil.disk_usage(folder).free < size * ROOM_FOR_A_ROW:
                    print(f"skipped: {name}: the disk is too full", flush=True)
                    continue
                url = server.create_database(f"bench_{len(queues)}_{size}")
                engine = create_engine_for(url=url, max_pool_size=1)
                stack.callback(engine.dispose)
                queue = Queue(shape, size, min(waiting or size, size), engine, build_tables())
                try:
                    queue.fill()
                except DatabaseDown as error:
                    print(f"skipped: {name}: {error}", flush=True)
                    continue
                print(f"filled: {name}, {queue.fill_seconds:.0f} s", flush=True)
                queue.watch()
                queues.append(queue)
        yield queues


def show_results(queues: list[Queue]) -> None:
    """Print and store the results."""
    smallest = {shape: min((q for q in queues if q.shape == shape), key=lambda q: q.size) for shape in SHAPES}
    rows = []
    for queue in queues:
        whole, least = statistics.median(queue.whole), statistics.median(smallest[queue.shape].whole)
        inside = statistics.median(queue.in_database)
        rows.append(
            {
                "queue": queue.shape,
                "rows": queue.size,
                "waiting": queue.waiting,
                "claim ms": whole,
                "p95 ms": statistics.quantiles(queue.whole, n=20)[-1],
                "in PostgreSQL ms": inside,
                "pages": statistics.mean(queue.pages),
                "ratio": whole / least,
                "ratio in PostgreSQL": inside / statistics.median(smallest[queue.shape].in_database),
            }
        )
    worst = max(rows, key=lambda row: float(str(row["ratio"])))
    requirement = f"a claim of {CHUNK} at 10,000,000 rows takes at most {TARGET:g}x that at 10,000"
    measured = f"{worst['ratio']:.2f}x at most ({worst['queue']}, {worst['rows']:,} rows)"
    report(
        "claim",
        rows,
        list(rows[0]),
        f"Claims of {CHUNK} layers, each a transaction, the layers completed before the next: medians of "
        f"{CLAIMS}, all queues in turns on one PostgreSQL, without fsync.",
        lambda axes: draw(axes, queues),
        [Target(requirement, measured, float(str(worst["ratio"])) <= TARGET)],
    )


def draw(axes: Axes, queues: list[Queue]) -> None:
    for shape in SHAPES:
        those = [queue for queue in queues if queue.shape == shape]
        sizes = [queue.size for queue in those]
        for label, times in (("whole claim", "whole"), ("in PostgreSQL", "in_database")):
            medians = [statistics.median(getattr(queue, times)) for queue in those]
            axes.plot(sizes, medians, marker="o", label=f"{shape}, {label}")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("rows")
    axes.set_ylabel(f"milliseconds for a claim of {CHUNK}")
    axes.legend()


if __name__ == "__main__":
    main()
