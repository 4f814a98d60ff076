"""Outages of the database: callers get DatabaseDown, and nothing is lost."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa

import sql.postgresql
from core.errors import DatabaseBusy, DatabaseDown
from sql.engine import create_engine_for
from sql.postgresql import query_timeout
from sql.schema import create_missing, probe_writable
from sql.tables import build_tables
from sql.transaction import reading, transaction
from tests.integration.sql.database import NOW, Database, digest_of, rbtorrent_id_of
from tests.servers.pgbouncer import start_pgbouncer
from tests.servers.postgres import OwnPostgres, start_postgres
from tests.servers.process import frozen
from tests.servers.waiting import comes_true

A, B = digest_of("a"), digest_of("b")
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPostgres]:
    """A PostgreSQL for this module only, which keeps committed transactions when it crashes."""
    settings = {"synchronous_commit": "on"}
    with start_postgres(tmp_path_factory.mktemp("outage"), settings=settings) as running:
        yield running


@pytest.fixture
def server(module_server: OwnPostgres) -> OwnPostgres:
    """A server to stop and start; empty and running, whatever the previous test did."""
    if not module_server.process.alive:
        module_server.process.stop()
        module_server.start()
    module_server.execute("DROP SCHEMA public CASCADE")
    module_server.execute("CREATE SCHEMA public")
    return module_server


@pytest.fixture
def database_there(server: OwnPostgres) -> Iterator[Database]:
    """A database on `server`."""
    engine = create_engine_for(url=server.url(), max_pool_size=8, connect_timeout=20)
    yield Database.created(engine)
    engine.dispose()


def _retried(act: Callable[[], Result], failures: list[DatabaseDown]) -> Result:
    """Call `act`, again while the database is down, and return its result. Failures are added to the list."""
    give_up = time.monotonic() + 60
    while True:
        try:
            return act()
        except DatabaseDown as error:
            failures.append(error)
            if time.monotonic() > give_up:
                raise
            time.sleep(0.02)


def test_losing_the_server_after_the_answer_leaks_no_connection(server: OwnPostgres) -> None:
    """Otherwise a few losses would exhaust the pool."""
    engine = create_engine_for(url=server.url(), max_pool_size=2, pool_timeout=1)
    for _ in range(3):
        with reading(engine) as connection:
            connection.execute(sa.text("SELECT 1"))
        # The same connection again.
        with reading(engine) as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
            mine = connection.scalar(sa.text("SELECT pg_backend_pid()"))
            server.execute(f"SELECT pg_terminate_backend({mine}, 30000)")
    with transaction(engine) as one, transaction(engine) as other:
        assert (one.scalar(sa.text("SELECT 1")), other.scalar(sa.text("SELECT 1"))) == (1, 1)
    engine.dispose()


def test_a_restart_is_not_noticed_by_the_next_transaction(
    server: OwnPostgres, database_there: Database
) -> None:
    # Several connections are in the pool when it happens.
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: database_there.enqueue(digest_of(number)), range(24)))
    server.stop()
    server.start()
    for _ in range(6):
        assert len(database_there.claim(4)) == 4


@pytest.mark.parametrize("end", [OwnPostgres.stop, OwnPostgres.crash])
def test_while_it_is_down_callers_get_database_down(
    server: OwnPostgres, database_there: Database, end: Callable[[OwnPostgres], None]
) -> None:
    database_there.enqueue(A)
    end(server)
    for _ in range(2):
        with pytest.raises(DatabaseDown, match="Connection refused"):
            database_there.claim()
        with pytest.raises(DatabaseDown), reading(database_there.engine):
            pass
    server.start()
    assert [claim.digest for claim in database_there.claim()] == [A]


def test_a_transaction_cut_in_the_middle_did_not_happen(
    server: OwnPostgres, database_there: Database
) -> None:
    def insert_twice() -> None:
        mapping = database_there.tables.mapping
        with transaction(database_there.engine) as connection:
            connection.execute(sa.insert(mapping).values(digest=str(A), added=1))
            server.stop()
            connection.execute(sa.insert(mapping).values(digest=B, added=1))

    with pytest.raises(DatabaseDown):
        insert_twice()
    server.start()
    assert database_there.mapping() == {}


def test_brewers_work_through_restarts_and_crashes(server: OwnPostgres, database_there: Database) -> None:
    layers = [digest_of(number) for number in range(400)]
    database_there.enqueue(*layers)
    clock = itertools.count(NOW)
    # One for each layer that may be completed, so that the brewers are not done before the last restart.
    turns = threading.Semaphore(0)
    completed: list[str] = []
    failures: list[DatabaseDown] = []

    def brew(_: int) -> None:
        while True:
            claims = _retried(lambda: database_there.claim(5, now=next(clock)), failures)
            if not claims:
                return
            for claim in claims:
                turns.acquire()
                _retried(lambda claim=claim: database_there.complete(claim, now=next(clock)), failures)
                completed.append(claim.digest)

    with ThreadPoolExecutor(4) as pool:
        brewing = [pool.submit(brew, number) for number in range(4)]
        try:
            for end in (server.stop, server.crash, server.stop):
                before = len(completed)
                turns.release(50)
                assert comes_true(lambda before=before: len(completed) >= before + 20)
                end()
                failures.clear()
                turns.release(50)
                assert comes_true(lambda: failures)
                server.start()
        finally:
            turns.release(1000)
        for work in brewing:
            work.result()
    # A claim whose commit was cut off may have succeeded: release-locks releases it.
    database_there.release(older_than=next(clock), max_attempts=9)
    brew(0)
    assert {digest: row.rbtorrent_id for digest, row in database_there.mapping().items()} == {
        str(digest): rbtorrent_id_of(digest) for digest in layers
    }


def test_a_hung_pooled_connection_is_replaced(database_there: Database) -> None:
    backend = sa.text("SELECT pg_backend_pid()")
    with transaction(database_there.engine) as connection:
        hung = connection.scalars(backend).one()
    with frozen(hung):
        began = time.monotonic()
        with transaction(database_there.engine) as connection:
            assert connection.scalars(backend).one() != hung
        assert time.monotonic() - began > 1.9


def test_a_full_disk_is_reported_for_a_minute_after_a_write_failed(
    on_postgres: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, tables = on_postgres.engine, on_postgres.tables
    on_postgres.execute(
        "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " RAISE disk_full USING MESSAGE = 'could not extend file'; END $$"
    )
    on_postgres.execute("CREATE TRIGGER full_disk BEFORE INSERT ON rbtorrent_mapping EXECUTE FUNCTION fill()")
    with reading(engine) as connection:
        probe_writable(connection, tables)

    with pytest.raises(DatabaseDown, match="could not extend file"):
        on_postgres.enqueue(A)
    with reading(engine) as connection, pytest.raises(DatabaseDown, match="extend file: free some space"):
        probe_writable(connection, tables)

    monkeypatch.setattr(sql.postgresql, "_FULL_SECONDS", 0)
    with reading(engine) as connection:
        probe_writable(connection, tables)


def test_a_statement_has_no_time_out(database_there: Database) -> None:
    with transaction(database_there.engine) as connection:
        assert connection.scalar(sa.text("SELECT 7 FROM pg_sleep(2.3)")) == 7


def test_an_inner_time_limit_leaves_the_outer_one_in_force(on_postgres: Database) -> None:
    with reading(on_postgres.engine) as connection, query_timeout(5):
        with query_timeout(60):
            connection.execute(sa.text("SELECT 1"))
        with pytest.raises(sa.exc.OperationalError, match="no answer in time"):
            connection.execute(sa.text("SELECT pg_sleep(60)"))


def test_restarts_on_either_side_of_pgbouncer_are_survived(server: OwnPostgres, tmp_path: Path) -> None:
    with start_pgbouncer(tmp_path / "pgbouncer", server) as bouncer:
        engine = create_engine_for(url=bouncer.url("postgres"), connect_timeout=20)
        database = Database.created(engine)
        database.enqueue(A, B)
        bouncer.stop()
        with pytest.raises(DatabaseDown):
            database.claim()
        bouncer.start()
        assert len(database.claim(1)) == 1
        server.stop()
        server.start()
        assert len(_retried(lambda: database.claim(1), [])) == 1
        engine.dispose()


def test_an_exhausted_pool_is_reported_with_the_key_to_raise(database: Database) -> None:
    engine = create_engine_for(
        url=database.engine.url.render_as_string(hide_password=False), max_pool_size=1, pool_timeout=0.05
    )
    with (
        reading(engine),
        pytest.raises(DatabaseBusy, match=r"busy: all connections are in use: raise db\.max_pool_size"),
        transaction(engine),
    ):
        pass
    with transaction(engine) as connection:
        assert connection.scalar(sa.select(1)) == 1
    engine.dispose()


def test_a_wrong_statement_is_not_an_outage(engine: sa.Engine) -> None:
    for wrong in ("SELECT 1 FROM rbtorrent_mapping, WHERE", "SELEKT 1"):
        with pytest.raises(sa.exc.DBAPIError), transaction(engine) as connection:
            connection.exec_driver_sql(wrong)


def test_a_violated_constraint_is_not_an_outage(database: Database) -> None:
    row = {"pattern": "a", "granted": 1}
    with pytest.raises(sa.exc.IntegrityError), transaction(database.engine) as connection:
        connection.execute(sa.insert(database.tables.role), [row, row])


def test_other_errors_are_raised_and_roll_the_transaction_back(database: Database) -> None:
    def insert_and_fail() -> None:
        with transaction(database.engine) as connection:
            connection.execute(sa.insert(database.tables.mapping).values(digest=str(A)))
            raise KeyError(A)

    with pytest.raises(KeyError):
        insert_and_fail()
    assert database.mapping() == {}


def test_a_reader_sees_what_was_committed(database: Database) -> None:
    database.enqueue(A)
    with reading(database.engine) as connection:
        assert connection.scalars(sa.select(database.tables.mapping.c.digest)).all() == [str(A)]


def test_the_folder_of_a_sqlite_file_is_created_for_its_owner_only(tmp_path: Path) -> None:
    file = tmp_path / "state" / "queue.sqlite"
    engine = create_engine_for(file=file)
    assert not file.parent.exists()
    Database.created(engine)
    engine.dispose()
    assert file.is_file()
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_sqlite_file_that_cannot_exist_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nonsense").write_text("this is no database, it is some text that is long enough" * 50)
    (tmp_path / "folder").mkdir()
    for path, why in [
        ("file/queue.sqlite", "not a directory|file exists"),
        ("nonsense", "not a database"),
        ("folder", "unable to open"),
    ]:
        engine = create_engine_for(file=tmp_path / path)
        with pytest.raises(DatabaseDown, match=why), transaction(engine):
            pass
        engine.dispose()


def test_a_sqlite_writer_waits_for_another_until_its_time_out(tmp_path: Path) -> None:
    waiting_writer = Database.created(create_engine_for(file=tmp_path / "queue.sqlite"))
    short_timeout = Database.created(
        create_engine_for(url=f"sqlite:///{tmp_path / 'queue.sqlite'}?timeout=0.05")
    )
    with transaction(waiting_writer.engine) as connection:
        with pytest.raises(DatabaseDown, match="database is locked"):
            short_timeout.enqueue(A)
        # Readers need not wait.
        with reading(short_timeout.engine) as reader:
            assert reader.scalars(sa.select(short_timeout.tables.mapping.c.digest)).all() == []
        waiting, begins = ThreadPoolExecutor(1), threading.Event()
        sa.event.listen(waiting_writer.engine, "checkout", lambda *_: begins.set())
        queued = waiting.submit(waiting_writer.enqueue, B)
        assert begins.wait(60)
        time.sleep(0.05)
        assert not queued.done()
        connection.execute(sa.insert(waiting_writer.tables.mapping).values(digest=str(A), brewed=1))
    assert queued.result() == 1
    waiting.shutdown()
    for database in (waiting_writer, short_timeout):
        database.engine.dispose()


def test_many_may_open_a_new_sqlite_file_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(12)

    def create(_: int) -> int:
        engine = create_engine_for(file=tmp_path / "new" / "queue.sqlite")
        together.wait()
        with transaction(engine) as connection:
            created = create_missing(connection, build_tables())
        engine.dispose()
        return len(created)

    with ThreadPoolExecutor(12) as pool:
        created = sorted(pool.map(create, range(12)))
    assert created[:11] == [0] * 11
    assert created[11] > 6
