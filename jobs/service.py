"""Service: the dependencies of jobs and commands, created from the configuration at first use."""

from __future__ import annotations

import argparse
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from core.command_line import Run
from core.config.config import Config
from core.errors import DatabaseNotReady
from core.logs import OutageLog
from core.pace import Pace
from core.stopping import stop_on_signals
from sql.engine import create_engine_for
from sql.layers import list_scopes
from sql.mds_files import find_mds_file, list_files
from sql.schema import create_missing, existing_tables, lacks_optional_tables_only
from sql.sqlite import checkpoint
from sql.tables import Tables, build_tables
from sql.transaction import Clock, database_time, reading, transaction

if TYPE_CHECKING:
    from core.blobs.backends import BlobBackends
    from core.blobs.presence import PresenceChecker
    from core.blobs.source import BlobSource
    from core.http.client import HttpClient
    from core.registry.client import RegistryClient
    from core.torrents.store import MetainfoStore
    from jobs.brew_state import BrewCounter, Outages

log = logging.getLogger(__name__)

_MDS_PAGE = 5_000
"""Rows of the MDS driver's tables that are read at a time."""


class Service:
    """The configured service. Nothing is imported or connected before it is used.

    `stop` is set when the process must end. Each property is created once; tests may assign others.
    """

    def __init__(self, config: Config, clock: Clock = database_time) -> None:
        self.config = config
        self.clock = clock
        self.stop = threading.Event()

    def now(self, connection: Connection) -> int:
        """Return the time in Unix seconds, by the database's clock."""
        return self.clock(connection)

    def pace(self, rate: float | None) -> Pace:
        """Return a limit of `rate` requests a second, None for no limit."""
        return Pace(rate, sleep=self.stop.wait)

    @cached_property
    def tables(self) -> Tables:
        return self._all_tables

    @cached_property
    def _all_tables(self) -> Tables:
        db = self.config.db
        return build_tables(db.table_name, db.old_table_name, db.mfs_table, db.mds_table)

    @cached_property
    def engine(self) -> Engine:
        """The database, for commands that only read. Tables may be missing."""
        # On PostgreSQL the privileges depend on the user, so one pool is enough.
        shared = self.writable_engine.name == "postgresql"
        return self.writable_engine if shared else self._create_engine(read_only=True)

    @cached_property
    def writable_engine(self) -> Engine:
        """The database for writing. Tables may be missing."""
        return self._create_engine()

    def _create_engine(self, *, read_only: bool = False) -> Engine:
        db = self.config.db
        url = db.url.get_secret_value() if db.url else None
        return create_engine_for(
            url=url,
            file=None if url or db.host else self.config.application.state_dir / "docker_torrents.sqlite",
            hosts=db.host or (),
            port=db.port,
            database=db.database,
            username=db.username,
            password=db.password.get_secret_value() if db.password else None,
            connect_timeout=db.connect_timeout,
            max_pool_size=db.max_pool_size,
            read_only=read_only,
        )

    def close(self) -> None:
        """Close the database. An SQLite file then contains everything, unless other processes use it."""
        if "engine" in self.__dict__:
            self.engine.dispose()
        if "database" in self.__dict__:
            checkpoint(self.database)

    @cached_property
    def database(self) -> Engine:
        """The database with all its tables; missing ones are created. Raises DatabaseDown."""
        try:
            with transaction(self.writable_engine) as connection:
                created = create_missing(connection, self._all_tables)
        except DatabaseNotReady as error:
            with reading(self.writable_engine) as connection:
                if not lacks_optional_tables_only(connection, self._all_tables):
                    raise
            log.warning("tables of this version are missing, the status page lacks figures reason=%s", error)
            created = []
        if created:
            log.info("database prepared tables_and_indexes=%d", len(created))
        return self.writable_engine

    @cached_property
    def reader(self) -> Engine:
        """The database for commands that only read. Nothing is created: missing tables read as empty."""
        with reading(self.engine) as connection:
            self.tables = existing_tables(connection, self._all_tables)
        return self.engine

    def http(self) -> HttpClient:
        """Return a new HTTP client for the registry."""
        from core.clients import http_client

        settings = self.config.docker_registry
        return http_client(self.config, settings.connect_timeout, settings.read_timeout, resource="registry")

    @cached_property
    def registry(self) -> RegistryClient:
        """The registry, with the brewer's credentials."""
        from core.registry.client import RegistryClient

        brewer = self.config.brewer
        password = brewer.brew_password.get_secret_value() if brewer.brew_password else ""
        return RegistryClient(self.config.docker_registry, self.http(), brewer.brew_user, password)

    @cached_property
    def blobs(self) -> BlobBackends:
        """The backends that hold the registry's blobs."""
        from core.blobs.backends import BlobBackends

        return BlobBackends(
            self.config, self.registry, self._candidate_scopes, self._find_mds_file, self._list_mds_files
        )

    @cached_property
    def source(self) -> BlobSource:
        """The backend that layers are read from."""
        return self.blobs.source()

    @cached_property
    def presence(self) -> PresenceChecker:
        """Checks whether layers are still in the registry."""
        return self.blobs.presence_checker()

    @cached_property
    def store(self) -> MetainfoStore:
        """The metainfo store."""
        from core.clients import open_bucket
        from core.torrents.store import DirectoryStore, S3Store

        if self.config.torrents.store == "s3" and self.config.s3.bucket:
            return S3Store(open_bucket(self.config, self.config.s3.bucket), self.config.s3.prefix)
        return DirectoryStore(self.config.metainfo_dir)

    @cached_property
    def brew_outages(self) -> Outages:
        """The outages of brewing's dependencies, kept across runs."""
        from jobs.brew_state import Outages

        return Outages()

    @cached_property
    def registry_outage(self) -> OutageLog:
        """Logs outages of the registry, across runs."""
        return OutageLog(log, "registry")

    @cached_property
    def brew_counter(self) -> BrewCounter:
        """Brewed layers that are not recorded in the history yet."""
        from jobs.brew_state import BrewCounter

        return BrewCounter()

    @cached_property
    def brewer_name(self) -> str:
        """The name of this process as a lock holder, for operators."""
        return f"{socket.gethostname()}:{os.getpid()}"

    def _candidate_scopes(self) -> Iterable[str]:
        """Return the repositories to search for a layer of unknown repository."""
        with reading(self.engine) as connection:
            known = list_scopes(connection, self.tables)
        return chain(known, self.registry.list_repositories())

    def _find_mds_file(self, path: str) -> str | None:
        with reading(self.engine) as connection:
            return find_mds_file(connection, self.tables, path)

    def _list_mds_files(
        self, folder: str, after: str | None
    ) -> tuple[list[tuple[str, int | None]], str | None]:
        with reading(self.engine) as connection:
            return list_files(connection, self.tables, folder=folder, after=after, limit=_MDS_PAGE)


def with_service(run: Callable[[Service, argparse.Namespace], int], *, stoppable: bool = True) -> Run:
    """Return a command that calls `run` with the service.

    If it is `stoppable`, SIGTERM and SIGINT set `service.stop`; otherwise they end the process.
    """

    def run_command(config: Config, arguments: argparse.Namespace) -> int:
        service = Service(config)
        try:
            with stop_on_signals(service.stop) if stoppable else nullcontext():
                return run(service, arguments)
        finally:
            service.close()

    return run_command
