"""Names of hosts, tables and databases in the configuration."""

from __future__ import annotations

import pytest

from sql.engine import create_engine_for
from sql.hosts import Host, parse_host
from sql.tables import build_tables


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("db1", Host("db1", 6432)),
        (" db1.example.org ", Host("db1.example.org", 6432)),
        ("db1:5433", Host("db1", 5433)),
        ("192.0.2.7:5433", Host("192.0.2.7", 5433)),
        ("::1", Host("::1", 6432)),
        ("2001:db8::1", Host("2001:db8::1", 6432)),
        ("[2001:db8::1]", Host("2001:db8::1", 6432)),
        ("[2001:db8::1]:5433", Host("2001:db8::1", 5433)),
        ("/var/run/postgresql", Host("/var/run/postgresql", 6432)),
        ("/tmp/with:colon", Host("/tmp/with:colon", 6432)),
    ],
)
def test_a_host_may_be_written_in_several_ways(text: str, host: Host) -> None:
    assert parse_host(text, 6432) == host


@pytest.mark.parametrize(
    "text",
    ["", " ", ":5432", "db1:", "db1:port", "db1:0", "db1:65536", "db 1", "[::1", "[::1]5432", "[]:1", "a,b"],
)
def test_an_invalid_host_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a host"):
        parse_host(text)


def test_a_host_is_printed_as_it_was_written() -> None:
    assert str(Host("db1", 1)) == "db1:1"
    assert str(Host("::1", 1)) == "[::1]:1"


def test_all_tables_are_named_after_the_mapping() -> None:
    tables = build_tables("layers", "old_ones", "files", "blobs")
    assert {table.name for table in tables.metadata.sorted_tables} == {
        "layers",
        "layers_queue",
        "layers_scope",
        "layers_role",
        "layers_manifest",
        "layers_seen",
        "layers_gone",
        "layers_place",
        "layers_failure",
        "layers_job_run",
        "layers_history",
    }
    indexes = {str(index.name) for table in tables.metadata.sorted_tables for index in table.indexes}
    assert all(name.startswith("layers_") for name in indexes)
    assert (tables.old.name, tables.mfs.name, tables.mds.name) == ("old_ones", "files", "blobs")


def test_the_longest_name_leaves_no_name_cut_off() -> None:
    """PostgreSQL cuts names at 63 characters; the configuration takes 41 for the mapping."""
    tables = build_tables("m" * 41)
    names = [str(index.name) for table in tables.metadata.sorted_tables for index in table.indexes]
    assert max(map(len, names)) <= 63
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root:secret@localhost/db",
        "postgresql+asyncpg://localhost/db",
        "sqlite://",
        "sqlite:///:memory:",
        "not a url",
        "postgresql://user:secret@db1:1,db2:2/name",
        "",
    ],
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="use postgresql:// or sqlite:///file") as caught:
        create_engine_for(url=url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:secret@db1,db2:6432/name",
        "postgres://user:secret@db1/name",
        "postgresql+psycopg2://user:secret@/name?host=db1:1&host=db2:2&sslmode=require",
        "sqlite:////var/lib/docker-torrents/queue.sqlite",
    ],
)
def test_an_engine_does_not_connect_or_show_the_password(url: str) -> None:
    engine = create_engine_for(url=url)
    assert "secret" not in repr(engine)
    assert engine.pool.status().startswith("Pool size: 10  Connections in pool: 0")
