"""A database that lacks a table, column or privilege: reported in one line, and by `check` in advance."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.errors import DatabaseDown, DatabaseNotReady, DatabaseRefused
from core.probing import check
from jobs.check import probe_database
from jobs.installation import init_db
from sql.engine import create_engine_for
from sql.mds_files import list_files
from sql.schema import create_missing, missing_objects
from sql.status import queue_status
from sql.tables import build_tables
from sql.transaction import reading, transaction
from tests.installation import Installation
from tests.integration.sql.database import NOW, Database, digest_of
from tests.servers.bad_http import replying
from tests.servers.http_server import start_http_server
from tests.servers.postgres import PostgresServer
from tests.servers.process import free_port

A = digest_of("a")
TABLES = build_tables()


@pytest.fixture
def low_url(postgres: PostgresServer, empty_database: str) -> Iterator[str]:
    """The URL of an empty database for the user low_user, who may not create tables."""
    postgres.execute("DROP ROLE IF EXISTS low_user")
    postgres.execute("CREATE ROLE low_user LOGIN PASSWORD 'low'")
    postgres.execute("GRANT USAGE ON SCHEMA public TO low_user", empty_database)
    url = sa.make_url(postgres.url(empty_database)).set(username="low_user", password="low")
    yield url.render_as_string(hide_password=False)
    postgres.execute("DROP OWNED BY low_user", empty_database)
    postgres.execute("DROP ROLE low_user")


@pytest.fixture
def low(low_url: str) -> Iterator[sa.Engine]:
    engine = create_engine_for(url=low_url)
    yield engine
    engine.dispose()


def test_a_missing_privilege_to_create_comes_with_a_remedy(low: sa.Engine) -> None:
    with pytest.raises(DatabaseNotReady) as caught, transaction(low) as connection:
        create_missing(connection, TABLES)

    assert str(caught.value) == (
        "the database is not ready: user low_user: permission denied for schema public: "
        "run the output of `docker_torrents init-db --print` as the owner"
    )
    with pytest.raises(
        DatabaseNotReady, match=r"GRANT CREATE ON SCHEMA public TO low_user, or .*init-db --print"
    ):
        probe_database(low, TABLES)


def test_missing_privileges_are_listed_by_table_and_suffice_once_granted(
    low: sa.Engine, on_postgres: Database, postgres: PostgresServer, empty_database: str
) -> None:
    postgres.execute(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO low_user", empty_database
    )
    assert probe_database(low, TABLES) == "postgresql takes writes"
    postgres.execute("REVOKE INSERT, DELETE ON rbtorrent_mapping_queue FROM low_user", empty_database)
    postgres.execute("REVOKE ALL ON rbtorrent_mapping_role FROM low_user", empty_database)

    with pytest.raises(DatabaseNotReady) as caught:
        probe_database(low, TABLES)

    lines = caught.value.why.split("; ")
    assert lines == [
        "GRANT INSERT, DELETE ON rbtorrent_mapping_queue TO low_user",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON rbtorrent_mapping_role TO low_user",
    ]
    limited = Database(low, TABLES)
    with pytest.raises(
        DatabaseNotReady, match="GRANT SELECT, INSERT, UPDATE, DELETE ON rbtorrent_mapping_queue TO low_user"
    ):
        limited.enqueue(A)
    for line in lines:
        postgres.execute(line, empty_database)
    assert probe_database(low, TABLES) == "postgresql takes writes"
    assert limited.enqueue(A) == 1


def test_a_missing_index_must_be_created_by_the_owner(
    low: sa.Engine, on_postgres: Database, postgres: PostgresServer, empty_database: str
) -> None:
    postgres.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO low_user", empty_database)
    on_postgres.execute("DROP INDEX rbtorrent_mapping_waiting")

    with pytest.raises(DatabaseNotReady, match="the owner of rbtorrent_mapping must create its indexes"):
        probe_database(low, TABLES)
    with pytest.raises(DatabaseNotReady, match="must be owner of table rbtorrent_mapping: run the output"):
        init_db(low, TABLES)


def test_a_missing_column_is_named(engine: sa.Engine) -> None:
    with transaction(engine) as connection:
        connection.exec_driver_sql(
            "CREATE TABLE rbtorrent_mapping (digest varchar(128) PRIMARY KEY, added bigint)"
        )
    lines: list[str] = []

    summary = init_db(engine, TABLES, lines.append)

    assert "still missing: column rbtorrent_mapping.brewed" in lines
    assert "created table rbtorrent_mapping_queue" in lines
    assert summary.failed > 0
    with pytest.raises(DatabaseNotReady, match=r"missing column rbtorrent_mapping\.brew"):
        probe_database(engine, TABLES)
    with pytest.raises(DatabaseNotReady, match="brew"), reading(engine) as connection:
        queue_status(connection, TABLES, now=NOW)


def test_missing_tables_of_other_services_are_named(database: Database) -> None:
    with pytest.raises(DatabaseNotReady, match="mfs"), reading(database.engine) as connection:
        list_files(connection, database.tables, folder="/", after=None, limit=1)


def test_every_command_reports_it_in_one_line_and_exits_with_1(tmp_path: Path, low_url: str) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    installation = Installation(tmp_path, nowhere, db={"url": low_url})

    for words in (["init-db"], ["run", "brew"], ["role", "grant", "a"], ["queue", "drop", "--all"]):
        ended = installation.run(*words, check=False)
        assert ended.returncode == 1
        assert "permission denied for schema public" in ended.stderr
        assert "Traceback" not in ended.stderr
    checked = installation.run("check", check=False)
    assert checked.stdout.startswith("failed  database   the database is not ready: GRANT CREATE ON SCHEMA")
    assert checked.stdout.splitlines()[-1] == "checked 4, failed 3, skipped 3"


def test_commands_that_only_read_need_only_select(
    tmp_path: Path, low_url: str, on_postgres: Database, postgres: PostgresServer, empty_database: str
) -> None:
    on_postgres.enqueue(A)
    on_postgres.execute("DROP TABLE rbtorrent_mapping_role")
    postgres.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO low_user", empty_database)
    with start_http_server() as registry:
        registry.on("/*", replying(200, b"{}"))
        installation = Installation(tmp_path, registry.netloc, db={"url": low_url})
        for words, last in {
            "queue status": "waiting    1",
            "role list": "roles 0",
            f"show {A}": "waiting",
            "run prune --dry-run": "would forget 0",
        }.items():
            ended = installation.run(*words.split())
            assert last in ended.stdout
            assert ended.stderr == ""
        checked = installation.run("check", check=False)
    assert checked.returncode == 1
    assert "GRANT INSERT, UPDATE, DELETE ON rbtorrent_mapping TO low_user" in checked.stdout


def test_check_continues_whatever_a_probe_raises() -> None:
    def broken() -> str:
        raise ValueError("of some\nlibrary")

    lines: list[str] = []

    assert (
        str(check([("layers", broken), ("metainfo", lambda: "fine")], lines.append)) == "checked 2, failed 1"
    )
    assert lines == ["failed  layers     ValueError: of some library", "ok      metainfo   fine"]


def test_check_creates_no_sqlite_file(tmp_path: Path) -> None:
    file = tmp_path / "state" / "queue.sqlite"
    engine = create_engine_for(file=file)

    assert probe_database(engine, TABLES) == f"sqlite {file} will be created at first use"
    assert not file.parent.exists()


def test_the_error_names_an_unusable_sqlite_file(tmp_path: Path) -> None:
    (tmp_path / "queue.sqlite").write_text("this is none, and long enough for a header" * 100)
    engine = create_engine_for(file=tmp_path / "queue.sqlite")

    with pytest.raises(DatabaseDown, match=f"{tmp_path}/queue.sqlite: file is not a database"):
        probe_database(engine, TABLES)
    engine.dispose()


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
def test_the_error_for_a_sqlite_file_of_another_user_names_the_user(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "queue.sqlite").close()
    (tmp_path / "queue.sqlite").touch()
    for folder in [tmp_path, *tmp_path.parents]:
        folder.chmod(folder.stat().st_mode | 0o055)
    engine = create_engine_for(file=tmp_path / "queue.sqlite")

    os.seteuid(65534)
    try:
        with pytest.raises(DatabaseDown) as caught, transaction(engine) as connection:
            missing_objects(connection, TABLES)
        with pytest.raises(DatabaseDown) as unmade, transaction(create_engine_for(file=tmp_path / "a" / "b")):
            pass
    finally:
        os.seteuid(0)
        engine.dispose()

    assert caught.value.why == f"{tmp_path}/queue.sqlite: permission denied for user nobody"
    assert unmade.value.why == f"{tmp_path}/a: permission denied for user nobody"


def test_a_refused_login_is_not_an_outage(postgres: PostgresServer) -> None:
    url = sa.make_url(postgres.url("postgres"))
    engine = create_engine_for(
        hosts=[f"{url.host or url.query.get('host')}"],
        port=url.port or 5432,
        database="postgres",
        username="nobody_here",
        password="wrong",
    )
    with pytest.raises(DatabaseRefused) as caught, transaction(engine):
        pass
    assert str(caught.value).startswith("the database is up, but refuses access: ")
    assert '"nobody_here"' in str(caught.value)
    assert "wrong" not in str(caught.value)
    assert str(caught.value).endswith(": correct the user or the password in section db")


def test_the_remedy_for_a_login_depends_on_the_problem(postgres: PostgresServer, low_url: str) -> None:
    def remedy(url: sa.URL) -> str:
        engine = create_engine_for(url=url.render_as_string(hide_password=False))
        with pytest.raises(DatabaseDown) as caught, transaction(engine):
            pass
        return str(caught.value).rpartition(": ")[2]

    url = sa.make_url(low_url)
    assert remedy(url.set(database="no_such")) == "correct its name in section db, or create it"
    postgres.execute("ALTER ROLE low_user CONNECTION LIMIT 0")
    assert remedy(url) == "allow more connections there, or lower db.max_pool_size"
