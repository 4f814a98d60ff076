"""The parts of a web app for tests: an empty SQLite database, layers in memory, open access."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bottle
import sqlalchemy as sa

from core.access.access import Access
from core.blobs.source import BlobSource
from core.config.config import Config
from core.digest import Digest
from core.errors import AccessDenied
from core.http.client import HttpClient
from core.registry.client import RegistryClient
from core.torrents.store import DirectoryStore, MetainfoStore
from sql.engine import create_engine_for
from sql.schema import create_missing
from sql.tables import Tables, build_tables
from sql.transaction import Clock, transaction
from tests.memory_source import MemorySource
from web.app import build_app

SECRET = b"throw-away secret of these tests"
NOON = 1_700_000_000


def noon() -> float:
    """Return a constant time."""
    return NOON


@dataclass(frozen=True)
class Parts:
    """The arguments of build_app. `clock` is its timer too."""

    config: Config
    engine: sa.Engine
    tables: Tables
    registry: RegistryClient
    access: Access
    source: BlobSource
    store: MetainfoStore
    clock: Callable[[], float] = noon


@dataclass
class Door:
    """Access for the callers that tests list: (scope, digest, Authorization); for all if `open`."""

    open: bool = True
    pullers: set[tuple[str, Digest, str | None]] = field(default_factory=set)

    def admit(self, headers: Mapping[str, str]) -> None:
        pass

    def may_pull(self, scope: str, digest: Digest, authorization: str | None) -> None:
        if not self.open and (scope, digest, authorization) not in self.pullers:
            challenge = ("WWW-Authenticate", 'Basic realm="tests"')
            raise AccessDenied(401, (challenge,), "UNAUTHORIZED", "authentication required")


def web_parts(
    folder: Path,
    *,
    database_url: str | None = None,
    settings: Mapping[str, Any] | None = None,
    source: BlobSource | None = None,
    store: MetainfoStore | None = None,
    access: Any = None,
    clock: Callable[[], float] = noon,
    read_timeout: float = 60.0,
) -> Parts:
    """Return parts with an empty database. `settings` are sections of the configuration, and
    `read_timeout` is how long the registry may be silent, in seconds.
    """
    url = database_url or f"sqlite:///{folder / 'database.sqlite'}"
    sections = {"docker_registry": {"host": "127.0.0.1:1", "proto": "http"}, **(settings or {})}
    sections["docker_registry"] = {"read_timeout": read_timeout, **sections["docker_registry"]}
    config = Config.model_validate(sections)
    tables = build_tables()
    engine = create_engine_for(url=url)
    with transaction(engine) as connection:
        create_missing(connection, tables)
    return Parts(
        config=config,
        engine=engine,
        tables=tables,
        registry=RegistryClient(config.docker_registry, HttpClient(2.0, read_timeout)),
        access=access or Door(),
        source=source or MemorySource({}),
        store=store or DirectoryStore(folder / "metainfo"),
        clock=clock,
    )


def app_of(parts: Parts, database_clock: Clock | None = None) -> bottle.Bottle:
    """Return the app of these parts. Their clock serves as that of the database, too, unless another one does."""
    return build_app(
        parts.config,
        engine=parts.engine,
        tables=parts.tables,
        registry=parts.registry,
        own_registry=parts.registry,
        access=parts.access,
        source=parts.source,
        store=parts.store,
        capability_secret=SECRET,
        clock=parts.clock,
        database_clock=database_clock or (lambda _: int(parts.clock())),
        timer=parts.clock,
    )


def rows(parts: Parts, table: sa.Table, *columns: str) -> list[tuple[Any, ...]]:
    """Return these columns of all rows of a table, sorted."""
    with transaction(parts.engine) as connection:
        found = connection.execute(sa.select(*(table.c[name] for name in columns))).all()
    return sorted(tuple(row) for row in found)
