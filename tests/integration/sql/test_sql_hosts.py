"""The choice among several hosts; what hosts that do not work cost."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import sql.postgresql
from core.errors import DatabaseDown
from core.layer import Layer
from sql.claims import claim_layers
from sql.engine import create_engine_for
from sql.tables import Priority
from sql.transaction import reading, transaction
from tests.integration.sql.brewers import threads_work_on
from tests.integration.sql.database import NOW, Database, digest_of
from tests.integration.sql.silent_host import black_hole, hung_host
from tests.servers.cutting_proxy import start_cutting_proxy
from tests.servers.pgbouncer import start_pgbouncer
from tests.servers.postgres import OwnPostgres, start_postgres, start_standby
from tests.servers.process import free_port, frozen
from tests.servers.waiting import comes_true

HANGING_SECONDS = 5.0
"""The time-out where a host hangs. The next one, which works, must answer within it on a busy machine, too."""


@pytest.fixture(autouse=True)
def ample_login_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that works may take its time on a busy machine."""
    monkeypatch.setattr(sql.postgresql, "_LOGIN_SECONDS", 60.0)


@pytest.fixture(scope="module")
def primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPostgres]:
    """A server for this module only, to be stopped and hung."""
    settings = {"listen_addresses": "127.0.0.1, ::1"} if socket.has_dualstack_ipv6() else {}
    with start_postgres(tmp_path_factory.mktemp("primary"), settings=settings) as server:
        yield server


@pytest.fixture(scope="module")
def standby(primary: OwnPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPostgres]:
    """A streaming standby of `primary`."""
    with start_standby(primary, tmp_path_factory.mktemp("standby")) as server:
        yield server


@contextmanager
def _engine(*hosts: str, connect_timeout: float = 60.0, **more: Any) -> Iterator[sa.Engine]:
    engine = create_engine_for(
        hosts=hosts, database="postgres", username="postgres", connect_timeout=connect_timeout, **more
    )
    yield engine
    engine.dispose()


def _host(server: OwnPostgres) -> str:
    return f"{server.host}:{server.port}"


def _port_reached(engine: sa.Engine) -> int:
    with transaction(engine) as connection:
        port: int = connection.scalars(sa.text("SELECT inet_server_port()")).one()
        return port


def _setting(engine: sa.Engine, name: str) -> str:
    with transaction(engine) as connection:
        found: str = connection.scalars(sa.text(f"SHOW {name}")).one()
        return found


def test_the_first_host_that_accepts_writes_is_used(primary: OwnPostgres, standby: OwnPostgres) -> None:
    dead = f"127.0.0.1:{free_port()}"
    with _engine(dead, _host(standby), _host(primary)) as engine:
        assert _port_reached(engine) == primary.port
        database = Database.created(engine)
        assert database.enqueue(digest_of("a")) == 1


def test_a_server_that_is_read_only_by_configuration_is_skipped(primary: OwnPostgres, tmp_path: Path) -> None:
    with (
        start_postgres(tmp_path, read_only=True) as read_only,
        _engine(_host(read_only), _host(primary)) as engine,
    ):
        assert _port_reached(engine) == primary.port


def test_a_dead_host_is_skipped_after_the_time_out(primary: OwnPostgres) -> None:
    refused = f"127.0.0.1:{free_port()}"
    with (
        hung_host() as hung,
        black_hole() as hole,
        _engine(refused, hung, hole, _host(primary), connect_timeout=HANGING_SECONDS) as engine,
    ):
        began = time.monotonic()
        assert _port_reached(engine) == primary.port
        assert time.monotonic() - began >= 2 * HANGING_SECONDS


def test_a_stopped_postgresql_is_skipped(primary: OwnPostgres, tmp_path: Path) -> None:
    with (
        start_postgres(tmp_path) as other,
        _engine(_host(other), _host(primary), connect_timeout=HANGING_SECONDS) as engine,
        frozen(other.process.pid),
    ):
        assert _port_reached(engine) == primary.port


def test_a_pgbouncer_without_its_postgresql_is_skipped(
    primary: OwnPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PgBouncer answers, but there is no server behind it. The time-out is that of the primary's login, too.
    monkeypatch.setattr(sql.postgresql, "_LOGIN_SECONDS", 10.0)
    with start_postgres(tmp_path / "down") as down, start_pgbouncer(tmp_path / "bouncer", down) as bouncer:
        down.stop()
        with _engine(f"{bouncer.host}:{bouncer.port}", _host(primary), connect_timeout=10.0) as engine:
            assert _port_reached(engine) == primary.port


def test_if_all_hosts_fail_each_reason_is_reported(standby: OwnPostgres) -> None:
    refused = f"127.0.0.1:{free_port()}"
    with (
        hung_host() as hung,
        _engine(
            *(refused, hung, _host(standby), "no-such-host.invalid"),
            password="secret",
            connect_timeout=HANGING_SECONDS,
        ) as engine,
    ):
        with pytest.raises(DatabaseDown) as caught, transaction(engine):
            pass
        first, second, third, fourth = caught.value.why.split("; ")
        assert first == f"{refused}: 127.0.0.1 Connection refused"
        assert second == f"{hung}: 127.0.0.1 no answer within 5 s"
        assert "read-only" in third
        assert str(standby.port) in third
        assert fourth.startswith("no-such-host.invalid:5432: ")
        assert "secret" not in str(caught.value)


def test_a_host_that_closes_the_connection_is_skipped(primary: OwnPostgres) -> None:
    with (
        start_cutting_proxy(_host(primary)) as proxy,
        _engine(proxy.netloc, _host(primary)) as engine,
    ):
        proxy.break_after(0, times=100, how="end")
        assert _port_reached(engine) == primary.port


def test_a_name_with_several_addresses_is_tried_at_all_of_them(
    primary: OwnPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*_: object, **__: object) -> list[tuple[Any, ...]]:
        tcp = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*tcp, (address, primary.port)) for address in ("127.0.0.2", "127.0.0.3", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    # 127.0.0.2 is hung, 127.0.0.3 refuses.
    with (
        hung_host("127.0.0.2", primary.port),
        _engine(f"db.example.org:{primary.port}", connect_timeout=600) as engine,
    ):
        # All addresses are tried at the same time: the time-out of the hung one exceeds that of the test.
        assert _port_reached(engine) == primary.port


def test_a_resolver_that_hangs_is_skipped_after_the_time_out(
    primary: OwnPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = socket.getaddrinfo, threading.Event()

    def look_up(host: Any, *arguments: Any, **more: Any) -> Any:
        if host == "slow.example.org" and not more["flags"]:
            go_on.wait(600)
        return asked(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with _engine("slow.example.org", _host(primary), connect_timeout=HANGING_SECONDS) as engine:
        began = time.monotonic()
        assert _port_reached(engine) == primary.port
        assert time.monotonic() - began >= HANGING_SECONDS
    go_on.set()


def test_a_host_may_be_an_ipv6_address(primary: OwnPostgres) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with _engine(f"[::1]:{primary.port}") as engine:
        assert _port_reached(engine) == primary.port
    with _engine("::1", port=primary.port) as engine:
        assert _port_reached(engine) == primary.port


def test_a_host_may_be_the_folder_of_a_unix_socket(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with start_postgres(tmp_path / "server", settings={"unix_socket_directories": str(folder)}) as server:
        with (
            _engine("/nowhere", str(folder), port=server.port) as engine,
            reading(engine) as connection,
        ):
            assert connection.scalar(sa.text("SELECT inet_server_port() IS NULL"))
        with (
            _engine("/nowhere", port=server.port) as engine,
            pytest.raises(DatabaseDown, match=r"/nowhere:[0-9]+: No such file or directory"),
            transaction(engine),
        ):
            pass


def test_a_url_may_name_several_hosts(primary: OwnPostgres) -> None:
    url = f"postgresql://postgres@/postgres?host=127.0.0.1:{free_port()}&host={_host(primary)}"
    engine = create_engine_for(url=url, connect_timeout=60)
    assert _port_reached(engine) == primary.port
    engine.dispose()


def test_a_primary_made_read_only_is_replaced_by_the_new_one(tmp_path: Path) -> None:
    with (
        start_postgres(tmp_path / "old") as old,
        start_postgres(tmp_path / "new") as new,
        _engine(_host(old), _host(new)) as engine,
    ):
        for server in (new, old):
            with _engine(_host(server)) as one:
                Database.created(one)
        database = Database.created(engine)
        database.enqueue(digest_of("a"))
        assert _port_reached(engine) == old.port
        old.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        old.execute("SELECT pg_reload_conf()")
        with pytest.raises(DatabaseDown, match="read-only transaction"):
            _until_it_fails(database)
        database.enqueue(digest_of("b"))
        assert _port_reached(engine) == new.port


def _until_it_fails(database: Database) -> None:
    give_up = time.monotonic() + 60
    number = 0
    while time.monotonic() < give_up:
        number += 1
        database.enqueue(digest_of(number))


def test_a_promoted_standby_takes_over_with_everything_committed(tmp_path: Path) -> None:
    with (
        start_postgres(tmp_path / "a") as first,
        start_standby(first, tmp_path / "b") as second,
        _engine(_host(first), _host(second)) as engine,
    ):
        database = Database.created(engine)
        first.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        first.execute("ALTER SYSTEM SET synchronous_commit = 'remote_apply'")
        first.execute("SELECT pg_reload_conf()")
        assert comes_true(lambda: _setting(engine, "synchronous_standby_names") == "*")
        database.enqueue(*(digest_of(number) for number in range(50)))
        first.stop()
        with pytest.raises(DatabaseDown):
            database.claim()
        second.execute("SELECT pg_promote()")
        completed = threads_work_on(database, range(3))
        assert len(completed) == 50


def test_a_failover_between_pgbouncers_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PgBouncer on each host, all of which stay up: they report the state of their former server."""
    with (
        start_postgres(tmp_path / "a") as first,
        start_standby(first, tmp_path / "b") as second,
        start_pgbouncer(tmp_path / "before a", first) as before_first,
        start_pgbouncer(tmp_path / "before b", second) as before_second,
        _engine(
            *(f"127.0.0.1:{before_second.port}", f"127.0.0.1:{before_first.port}"),
            connect_timeout=HANGING_SECONDS,
        ) as engine,
    ):
        assert _port_reached(engine) == first.port
        first.stop()
        monkeypatch.setattr(sql.postgresql, "_LOGIN_SECONDS", 1.0)
        with pytest.raises(DatabaseDown):
            _port_reached(engine)
        monkeypatch.setattr(sql.postgresql, "_LOGIN_SECONDS", 60.0)
        second.execute("SELECT pg_promote()")
        assert _port_reached(engine) == second.port


def test_nothing_outlives_a_transaction_on_the_server(tmp_path: Path) -> None:
    """PgBouncer's transaction mode does not support it: https://www.pgbouncer.org/features.html"""
    with (
        start_postgres(tmp_path, settings={"log_statement": "all"}) as server,
        _engine(_host(server)) as engine,
    ):
        database = Database.created(engine)
        database.enqueue_all([Layer(digest_of("a"), ("team/a",), 1)], Priority.ASKED)
        database.complete(database.claim_one())
        database.adopt()
        database.release(older_than=NOW)
        database.drop()
        database.status()
        with reading(engine) as connection:
            claim_layers(connection, database.tables, now=NOW, limit=1, brewer="host:1")
        log = (tmp_path / "postgres.log").read_text()
        logged = re.findall(r"statement: (.*)", log)
        assert any("FOR UPDATE SKIP LOCKED" in line for line in log.splitlines())
        lasting = re.compile(
            r"\s*(SET|RESET|PREPARE|EXECUTE|LISTEN|DECLARE|LOAD|CREATE TEMP|LOCK)\b|.*pg_advisory_lock"
        )
        assert [statement for statement in logged if lasting.match(statement)] == []
