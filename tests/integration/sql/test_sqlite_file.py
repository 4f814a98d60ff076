"""A SQLite file: private, complete after a clean stop, readable without writing, and shared by processes."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from core.config.file import load_config
from core.errors import DatabaseNotReady
from jobs.service import Service
from sql.engine import create_engine_for
from sql.history import find_cursor
from sql.schema import existing_tables, probe_writable
from sql.scopes import list_roles
from sql.sqlite import checkpoint
from sql.status import queue_status
from sql.tables import build_tables
from sql.transaction import reading, transaction
from tests.installation import Installation
from tests.integration.sql.database import NOW, Database, digest_of
from tests.servers.process import bound_to_parent

A, B = digest_of("a"), digest_of("b")
TABLES = build_tables()
WRITER = """
import sys, time
from sql.engine import create_engine_for
from sql.transaction import transaction
engine = create_engine_for(file=sys.argv[1])
print("started", flush=True)
while True:
    with transaction(engine) as connection:
        connection.exec_driver_sql("INSERT INTO busy SELECT 1")
        time.sleep(0.01)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "open" / "queue.sqlite"


@pytest.fixture
def database(file: Path) -> Iterator[Database]:
    file.parent.mkdir(mode=0o777)
    file.parent.chmod(0o777)
    engine = create_engine_for(file=file)
    yield Database.created(engine)
    engine.dispose()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_its_files_are_private_in_a_folder_open_to_all(database: Database, file: Path) -> None:
    database.enqueue(A)
    files = sorted(file.parent.iterdir())
    assert [path.name for path in files] == ["queue.sqlite", "queue.sqlite-shm", "queue.sqlite-wal"]
    assert {mode(path) for path in files} == {0o600}


def test_after_a_clean_stop_the_file_alone_holds_everything(database: Database, file: Path) -> None:
    database.enqueue(A)
    checkpoint(database.engine)

    assert list(file.parent.iterdir()) == [file]
    with sqlite3.connect(f"{file.as_uri()}?mode=ro&immutable=1", uri=True) as copy:
        assert copy.execute("SELECT digest FROM rbtorrent_mapping").fetchall() == [(str(A),)]
    copy.close()


def test_a_closed_service_leaves_everything_in_the_file_though_a_thread_uses_it(tmp_path: Path) -> None:
    service = Service(load_config(Installation(tmp_path, "127.0.0.1:1").config))
    with transaction(service.database) as connection:
        connection.execute(sa.insert(service.tables.role).values(pattern="a/*", granted=1))
    with reading(service.database):
        service.close()
        copy = shutil.copy(tmp_path / "state/docker_torrents.sqlite", tmp_path / "copy.sqlite")
    engine = create_engine_for(file=copy, read_only=True)
    with reading(engine) as connection:
        assert [role.pattern for role in list_roles(connection, TABLES)] == ["a/*"]
    engine.dispose()


def test_a_file_that_does_not_exist_reads_as_empty_and_is_not_created(tmp_path: Path) -> None:
    engine = create_engine_for(file=tmp_path / "nowhere" / "queue.sqlite", read_only=True)
    with reading(engine) as connection:
        tables = existing_tables(connection, TABLES)
        assert queue_status(connection, tables, now=NOW).waiting_count == 0
        assert list_roles(connection, tables) == []
        assert find_cursor(connection, tables, "prune") == ""
    engine.dispose()
    assert list(tmp_path.iterdir()) == []


def test_a_database_with_only_the_original_table_is_read_without_creating_others(tmp_path: Path) -> None:
    file = tmp_path / "seed.sqlite"
    with sqlite3.connect(file) as seed:
        seed.execute(
            "CREATE TABLE rbtorrent_mapping (digest varchar(128) PRIMARY KEY, rbtorrent_id varchar(64), "
            "added BIGINT, brew_lock BIGINT, brewed BIGINT)"
        )
        seed.execute("INSERT INTO rbtorrent_mapping VALUES (?, NULL, 1, 5, NULL)", (str(A),))
    seed.close()
    before = file.read_bytes()
    engine = create_engine_for(file=file, read_only=True)
    with reading(engine) as connection:
        status = queue_status(connection, existing_tables(connection, TABLES), now=NOW)
    engine.dispose()
    assert [layer.digest for layer in status.locked] == [str(A)]
    assert file.read_bytes() == before


def test_a_reading_engine_refuses_to_write_and_waits_for_no_writer(database: Database, file: Path) -> None:
    database.enqueue(A)
    reader = create_engine_for(file=file, read_only=True)
    with transaction(database.engine) as writing:
        writing.execute(sa.update(TABLES.queue).values(size=5))
        with reading(reader) as connection:
            assert connection.scalars(sa.select(TABLES.queue.c.size)).all() == [None]
    with pytest.raises(sa.exc.OperationalError), reader.begin() as connection:
        connection.execute(sa.delete(TABLES.queue))
    reader.dispose()


def test_reading_a_file_that_no_process_uses_creates_nothing_beside_it(
    database: Database, file: Path
) -> None:
    reader = create_engine_for(file=file, read_only=True)

    def known() -> list[str]:
        with reading(reader) as connection:
            return list(connection.scalars(sa.select(TABLES.mapping.c.digest)))

    database.enqueue(A)
    assert known() == [str(A)]
    checkpoint(database.engine)
    assert known() == [str(A)]
    assert list(file.parent.iterdir()) == [file]

    database.enqueue(digest_of("b"))
    assert known() == sorted([str(A), str(digest_of("b"))])


def test_a_missing_table_is_an_error_for_writers(tmp_path: Path) -> None:
    engine = create_engine_for(file=tmp_path / "empty.sqlite")
    with pytest.raises(DatabaseNotReady, match="no such table"), transaction(engine) as connection:
        list_roles(connection, TABLES)
    engine.dispose()


def test_nothing_is_written_to_a_file_that_was_removed(database: Database, file: Path) -> None:
    database.enqueue(A)
    shutil.rmtree(file.parent)

    with pytest.raises(DatabaseNotReady, match="no such table"):
        database.enqueue(B)
    with pytest.raises(DatabaseNotReady, match="init-db"), reading(database.engine) as connection:
        probe_writable(connection, TABLES)

    Database.created(database.engine)
    assert database.enqueue(B) == 1
    assert file.exists()


def test_a_process_that_writes_without_a_pause_does_not_starve_another(
    database: Database, file: Path
) -> None:
    database.execute("CREATE TABLE busy (number)")
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    saturating = subprocess.Popen(
        bound_to_parent([sys.executable, "-c", WRITER, file]), stdout=subprocess.PIPE, env=environ
    )
    try:
        assert saturating.stdout is not None
        assert saturating.stdout.readline() == b"started\n"
        waited_for = []
        for number in range(30):
            with reading(database.engine) as connection:
                before = connection.scalars(sa.text("SELECT count(*) FROM busy")).one()
            database.enqueue(digest_of(number))
            with reading(database.engine) as connection:
                waited_for.append(connection.scalars(sa.text("SELECT count(*) FROM busy")).one() - before)
    finally:
        saturating.kill()
        saturating.communicate()
    # Strict alternation would be 1, and without pauses some wait for hundreds; counted in turns, so that a slow
    # machine makes no difference.
    assert sorted(waited_for)[-3] <= 10
