"""What a layer and a push take in PostgreSQL: bytes on disk, transactions that write, rows, and bytes of log.

Figures of docs/decisions/scale.md. They are counts, so what else the machine does changes little.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from matplotlib.axes import Axes

from bench.report import report
from core.digest import Digest
from core.layer import Layer
from sql.engine import create_engine_for
from sql.enqueue import enqueue_layers
from sql.schema import create_missing
from sql.tables import Priority, Tables, build_tables
from sql.transaction import reading, transaction
from tests.installation import Installation
from tests.servers.layers import layer_bytes
from tests.servers.postgres import OwnPostgres, start_postgres
from tests.servers.process import free_port, listening
from tests.servers.push import push_image
from tests.servers.registry import Registry, start_registry
from tests.servers.waiting import comes_true

ROWS = 200_000
BATCH = 5_000
PUSHES = 200
LAYERS = 5
LAYER_BYTES = 10_000
KEY = "bench"
TABLES = ("mapping", "queue", "scope")

_COUNTERS = """
SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS transactions,
       tup_inserted AS inserted, tup_updated AS updated, pg_current_wal_lsn() - '0/0' AS log
FROM pg_stat_database WHERE datname = current_database()
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("postgres", "registry"):
            (folder / part).mkdir()
        with start_postgres(folder / "postgres", durable=True) as postgres:
            rows = [
                {"what": f"a row of {table}, indexes included", "bytes": size}
                for table, size in sizes(postgres).items()
            ]
            rows.append(a_push(folder, postgres))
    report(
        "database",
        rows,
        ["what", "transactions", "inserted", "updated", "bytes"],
        f"PostgreSQL. Rows: {ROWS:,} brewed layers of one repository each. A push: "
        f"{PUSHES} one after the other, to the daemon, until their layers are brewed: transactions that "
        "write, rows, bytes of log.",
        lambda axes: draw(axes, rows),
    )


def sizes(postgres: OwnPostgres) -> dict[str, float]:
    """Return the bytes a row of each table, including its indexes."""
    engine, tables = create_engine_for(url=postgres.create_database("sizes")), build_tables()
    with transaction(engine) as connection:
        create_missing(connection, tables)
    vacuumed = engine.execution_options(isolation_level="AUTOCOMMIT")
    for first in range(0, ROWS, BATCH):
        with transaction(engine) as connection:
            layers = [_layer(number) for number in range(first, first + BATCH)]
            enqueue_layers(connection, tables, layers, priority=Priority.PUSHED, now=1_700_000_000 + first)
        with transaction(engine) as connection:
            _complete_all(connection, tables)
        with vacuumed.connect() as connection:
            # As autovacuum does: what rows took before they were completed is used again.
            connection.execute(sa.text("VACUUM"))
    found = {}
    with reading(engine) as connection:
        for name in TABLES:
            table = getattr(tables, name).name
            size = connection.scalars(sa.select(sa.func.pg_total_relation_size(table))).one()
            found[name] = size / ROWS
    engine.dispose()
    return found


def _layer(number: int) -> Layer:
    return Layer(Digest(hashlib.sha256(b"%d" % number).hexdigest()), ("library/ubuntu",), 10_000_000)


def _complete_all(connection: sa.Connection, tables: Tables) -> None:
    mapping, queue = tables.mapping, tables.queue
    made = sa.func.concat("rbtorrent:", sa.func.substr(mapping.c.digest, 8, 40))
    waits = queue.c.next_try.is_not(None)
    connection.execute(
        sa.update(mapping).where(mapping.c.brewed.is_(None)).values(rbtorrent_id=made, brewed=mapping.c.added)
    )
    connection.execute(sa.update(queue).where(waits).values(next_try=None, brewer="host.example.com:1234"))


def a_push(folder: Path, postgres: OwnPostgres) -> dict[str, object]:
    """Return the average cost of a push until its layers are brewed."""
    url, port = postgres.create_database("pushes"), free_port()
    events = {"url": f"http://127.0.0.1:{port}/v0/event", "headers": {"Authorization": [KEY]}}
    with start_registry(
        folder / "registry", notifications=[events], includereferences=True, access_log=False
    ) as registry:
        installation = Installation(
            folder / "installation",
            registry,
            application={"port": port, "event_authorization": KEY},
            db={"url": url},
        )
        installation.run("role", "grant", "bench/*")
        daemon = installation.process(ready=listening(port))
        daemon.start()
        try:
            _push(installation, registry, 0)
            before = _counters(postgres)
            for number in range(1, PUSHES + 1):
                _push(installation, registry, number)
        finally:
            # What it has not written yet it writes at its end.
            daemon.stop()
    after = _counters(postgres)
    transactions, inserted, updated, log = (
        (late - early) / PUSHES for early, late in zip(before, after, strict=True)
    )
    return {
        "what": f"a push of {LAYERS} new layers",
        "transactions": transactions,
        "inserted": inserted,
        "updated": updated,
        "bytes": log,
    }


def _push(installation: Installation, registry: Registry, number: int) -> None:
    """Push an image and wait until its metainfo is there: a look into the database would be counted too."""
    layers = [layer_bytes(LAYER_BYTES, number * LAYERS + at) for at in range(LAYERS)]
    push_image(registry, "bench/app", f"v{number}", layers)
    wanted = (number + 1) * LAYERS
    if not comes_true(lambda: sum(1 for _ in installation.metainfo.rglob("*.torrent")) >= wanted):
        raise SystemExit(f"push {number} was not brewed")


def _counters(postgres: OwnPostgres) -> tuple[int, ...]:
    # Backends report their work within a second, or at their end.
    time.sleep(2)
    with sa.create_engine(postgres.url("pushes"), poolclass=sa.NullPool).connect() as connection:
        return tuple(int(value) for value in connection.execute(sa.text(_COUNTERS)).one())


def draw(axes: Axes, rows: list[dict[str, object]]) -> None:
    """Plot the parts of a layer's bytes."""
    parts = rows[: len(TABLES)]
    axes.bar(TABLES, [float(str(row["bytes"])) for row in parts])
    axes.set_xlabel("table, of a layer in one repository")
    axes.set_ylabel("bytes a row, indexes included")


if __name__ == "__main__":
    main()
