"""The import of a million ids of an older service, compared with the database's own INSERT … SELECT."""

from __future__ import annotations

import hashlib
import logging
import sys
import tempfile
from pathlib import Path

import sqlalchemy as sa
from matplotlib.axes import Axes

from bench.report import report
from bench.timed import timed
from jobs.backfill_legacy import Takeover, backfill_legacy
from sql.engine import create_engine_for
from sql.schema import create_missing
from sql.tables import Tables, build_tables
from sql.transaction import transaction
from tests.layer_backends import TEMPLATE
from tests.servers.postgres import start_postgres
from tests.services import service_of

ROWS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000

# The same rows on both engines, created in place.
_HEX = {
    "postgresql": "encode(sha256(({0})::text::bytea), 'hex')",
    "sqlite": "sha256_hex({0})",
}
_NUMBERS = {
    "postgresql": "generate_series(1, {0}) AS n(i)",
    "sqlite": "(WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < {0})"
    " SELECT i FROM n)",
}
_KEY = {
    "postgresql": "(mds.mdsfileinfo::json ->> 'key')",
    "sqlite": "json_extract(mds.mdsfileinfo, '$.key')",
}
_DIGEST = {
    "postgresql": "split_part(mfs.path, '/', 8)",
    "sqlite": "substr(mfs.path, 37, 64)",
}


def main() -> None:
    logging.disable(logging.CRITICAL)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "postgres").mkdir()
        with start_postgres(folder / "postgres", durable=True) as postgres:
            urls = {
                "PostgreSQL": postgres.create_database("legacy"),
                "SQLite": f"sqlite:///{folder / 'legacy.sqlite'}",
            }
            for engine_name, url in urls.items():
                rows += measure(engine_name, url)
    show_results(rows)


def measure(engine_name: str, url: str) -> list[dict[str, object]]:
    """Return a row for each way."""
    engine = create_engine_for(url=url)
    tables = build_tables()
    with transaction(engine) as connection:
        create_missing(connection, tables)
        fill(connection, tables)
    if engine.dialect.name == "postgresql":
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
    print(f"{engine_name} filled", file=sys.stderr)

    def one_statement() -> None:
        with transaction(engine) as connection:
            insert_select(connection, tables)

    base, _ = timed(one_statement)
    with transaction(engine) as connection:
        connection.execute(sa.delete(tables.mapping))
    takeover = Takeover(service_of(engine, tables, db={"blob_path_template": TEMPLATE}))
    first, memory = timed(lambda: take_over(takeover, taken=ROWS, known=0))
    again, _ = timed(lambda: take_over(takeover, taken=0, known=ROWS))
    engine.dispose()
    runs = [("one INSERT … SELECT", base, None), ("backfill legacy", first, memory), ("again", again, None)]
    return [
        {
            "database": engine_name,
            "what": what,
            "seconds": seconds,
            "rows/s": ROWS / seconds,
            "x INSERT": seconds / base,
            "MiB": grown,
        }
        for what, seconds, grown in runs
    ]


def take_over(takeover: Takeover, taken: int, known: int) -> None:
    summary = backfill_legacy(takeover)
    assert (summary.taken, summary.known) == (taken, known), summary


def fill(connection: sa.Connection, tables: Tables) -> None:
    """Create ROWS blobs in MDS, each with an id stored by its MDS key."""
    dialect = connection.dialect.name
    tables.mfs.metadata.create_all(connection)
    if dialect == "sqlite":
        raw = connection.connection.dbapi_connection
        raw.create_function("sha256_hex", 1, lambda text: hashlib.sha256(str(text).encode()).hexdigest())  # type: ignore[union-attr]
    hex_digits, numbers = _HEX[dialect].format("i"), _NUMBERS[dialect].format(ROWS)
    info = """'{"key":"' || i || '/file","size":7,"id":"1:2"}'"""
    path = (
        f"'/docker/registry/v2/blobs/sha256/' || substr({hex_digits}, 1, 2) || '/' || {hex_digits} || '/data'"
    )
    old_id = f"'rbtorrent:' || substr({_HEX[dialect].format('-i')}, 1, 40)"
    for into, row in {
        "mds": f"'driver key ' || i, {info}, false",
        "mfs (path, parent, dir, size, key)": f"{path}, '/', false, 7, 'driver key ' || i",
        tables.old.name: f"i || '/file', {old_id}",
    }.items():
        connection.exec_driver_sql(f"INSERT INTO {into} SELECT {row} FROM {numbers}")


def insert_select(connection: sa.Connection, tables: Tables) -> None:
    """Return the equivalent statement by hand, without any checks."""
    dialect = connection.dialect.name
    connection.exec_driver_sql(
        f"INSERT INTO {tables.mapping.name} (digest, rbtorrent_id, added, brewed)"
        f" SELECT 'sha256:' || {_DIGEST[dialect]}, old.rbtorrent_id, 1, 1"
        f" FROM mds_keys_to_rbtorrents_mapping AS old JOIN mds ON {_KEY[dialect]} = old.mds_key"
        " JOIN mfs ON mfs.key = mds.key"
    )


def show_results(rows: list[dict[str, object]]) -> None:
    def plot(axes: Axes) -> None:
        axes.barh([f"{row['database']}: {row['what']}" for row in rows], [row["seconds"] for row in rows])  # type: ignore[misc]
        axes.set_xlabel(f"seconds for {ROWS:,} ids")

    report(
        "legacy",
        rows,
        ["database", "what", "seconds", "rows/s", "x INSERT", "MiB"],
        f"{ROWS:,} ids of an older service, no index on its table; MiB is how far the process grew",
        plot,
    )


if __name__ == "__main__":
    main()
