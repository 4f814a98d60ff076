"""docker_torrents: reads arguments and configuration, builds the parts, starts what was asked for."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain

import sqlalchemy as sa

from core.access.access import Access
from core.access.blackbox import BlackboxAccess
from core.access.chosen import choose_access
from core.command_line import parse_arguments
from core.config.checks import Checks
from core.config.config import Config
from core.config.file import load_config
from core.errors import CannotListen, ConfigInvalid, DockerTorrentsError
from core.http.client import HttpClient
from core.layer_places import LayerPlaces
from core.log_lines import set_up_logging
from core.logged_http import LoggedHttp
from core.output import take_any_text, tell
from core.registry.client import RegistryClient
from core.s3_bucket import open_bucket
from core.secret_file import own_secret
from core.sources.source import LayerSource
from core.stopping import told_to_stop, wait_until
from core.stores.directory import DirectoryStore
from core.stores.s3 import S3Store
from core.stores.store import MetainfoStore
from jobs.brew import Brewery
from jobs.check import Probe, check, probe_database, probe_store
from jobs.commands import COMMANDS, DONE, FAILED, USAGE, Desk, told
from jobs.init_db import init_db
from jobs.runnable import JOBS, run_prune_dry, schedules
from jobs.scheduler import Scheduler, cron_trigger
from sql.engine import check_url, create_engine_for
from sql.errors import SqlError
from sql.files import list_files
from sql.hosts import parse_host
from sql.layers import list_scopes
from sql.legacy import find_mds_files
from sql.schema import create_missing, ddl
from sql.tables import Tables, build_tables
from sql.transaction import reading, transaction
from web.app import build_app
from web.listen import listen
from web.parts import WebParts
from web.workers import serve

log = logging.getLogger("docker_torrents")

CHECKS = Checks(cron=cron_trigger, database_url=check_url, database_host=parse_host)
"""Who judges the values of the configuration that core does not know how to read."""

# Files of MDS that are listed at a time.
_MDS_PAGE = 5_000


class Parts:
    """What commands are put together from; each part is made when it is first asked for."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.stop = threading.Event()

    @cached_property
    def tables(self) -> Tables:
        db = self.config.db
        return build_tables(db.table_name, db.old_table_name, db.mfs_table, db.mds_table)

    @cached_property
    def engine(self) -> sa.Engine:
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
        )

    @cached_property
    def database(self) -> sa.Engine:
        """The engine, once the database has all tables: a new installation needs no step of its own."""
        with transaction(self.engine) as connection:
            for what in create_missing(connection, self.tables):
                log.info("created %s", what)
        return self.engine

    def _http(self) -> HttpClient:
        settings = self.config.docker_registry
        return LoggedHttp(settings.connect_timeout, settings.read_timeout)

    @cached_property
    def registry(self) -> RegistryClient:
        """The registry, to jobs: with the brewer's credentials."""
        brewer = self.config.brewer
        password = brewer.brew_password.get_secret_value() if brewer.brew_password else ""
        return RegistryClient(self.config.docker_registry, self._http(), brewer.brew_user, password)

    @cached_property
    def places(self) -> LayerPlaces:
        return LayerPlaces(self.config, self.registry, self._candidate_scopes, self._mds_file, self._mds_page)

    @cached_property
    def source(self) -> LayerSource:
        return self.places.source()

    def _mds_file(self, path: str) -> str | None:
        with reading(self.engine) as connection:
            return find_mds_files(connection, self.tables, [path]).get(path)

    def _mds_page(self, folder: str, after: str | None) -> tuple[list[tuple[str, int | None]], str | None]:
        with reading(self.engine) as connection:
            return list_files(connection, self.tables, folder=folder, after=after, limit=_MDS_PAGE)

    def _candidate_scopes(self) -> Iterable[str]:
        """Where to look for a layer that nobody has named a repository for."""
        with reading(self.engine) as connection:
            known = list_scopes(connection, self.tables)
        return chain(known, self.registry.list_repositories())

    @cached_property
    def store(self) -> MetainfoStore:
        if self.config.torrents.store == "s3" and self.config.s3.bucket:
            return S3Store(open_bucket(self.config.s3, self.config.s3.bucket), self.config.s3.prefix)
        return DirectoryStore(self.config.metainfo_dir)

    @cached_property
    def brewery(self) -> Brewery:
        brewer = self.config.brewer
        return Brewery(
            engine=self.database,
            tables=self.tables,
            source=self.source,
            store=self.store,
            brewer=f"{socket.gethostname()}:{os.getpid()}",
            private=self.config.torrents.private,
            workers=brewer.workers,
            connections=self.config.layers.connections,
            layers_per_chunk=brewer.layers_per_chunk,
            brew_discard_timeout=brewer.brew_discard_timeout,
            sleep_time=brewer.sleep_time,
            max_attempts=brewer.max_attempts,
        )

    @cached_property
    def callers(self) -> RegistryClient:
        """The registry, to the web app: callers bring their own credentials."""
        return RegistryClient(self.config.docker_registry, self._http())

    @cached_property
    def access(self) -> Access:
        return choose_access(self.config, self.callers, time.monotonic)

    @cached_property
    def web(self) -> WebParts:
        given = self.config.torrents.web_seed_secret
        own = self.config.application.state_dir / "web_seed_secret"
        try:
            engine = self.database
        except SqlError as error:
            # Manifests are served without it, and events refused until it is there.
            log.warning("the web app starts without its database reason=%s", error)
            engine = self.engine
        return WebParts(
            config=self.config,
            engine=engine,
            tables=self.tables,
            registry=self.callers,
            access=self.access,
            source=self.source,
            store=self.store,
            clock=time.time,
            capability_secret=given.get_secret_value().encode() if given else own_secret(own),
        )

    def probes(self) -> Iterator[tuple[str, Probe]]:
        """What `check` looks at, in the order in which things depend on each other."""
        folder = self.config.metainfo_dir if self.config.torrents.store == "directory" else None
        yield "database", lambda: probe_database(self.engine, self.tables)
        yield "registry", lambda: self.registry.ping()
        yield "layers", lambda: self.source.check()
        yield "metainfo", lambda: probe_store(self.store, folder)
        if isinstance(access := self.access, BlackboxAccess):
            yield "blackbox", access.check


@contextmanager
def scheduled(parts: Parts) -> Iterator[None]:
    """The jobs run by the clock within the block. `parts.stop` ends them sooner."""
    scheduler = Scheduler(schedules(parts))
    scheduler.start()
    try:
        yield
    finally:
        scheduler.stop(parts.stop)


def start_daemon(parts: Parts, arguments: argparse.Namespace) -> int:
    # Told to stop before all is up, it ends as it would later: no layer stays locked.
    with told_to_stop(parts.stop):
        # First, so that no job starts if the address is taken.
        listening = listen_as_configured(parts)
        with scheduled(parts):
            return serve_web(parts, listening)


def start_web(parts: Parts, arguments: argparse.Namespace) -> int:
    with told_to_stop(parts.stop):
        return serve_web(parts, listen_as_configured(parts), arguments.workers)


def serve_web(parts: Parts, listening: Sequence[socket.socket], workers: int = 1) -> int:
    warn_of_useless_torrents(parts.config)
    if parts.config.application.event_authorization is None:
        log.warning("no application.event_authorization: every notification is refused")
    return serve(lambda: build_app(parts.web), listening, parts.stop, workers=workers)


def listen_as_configured(parts: Parts) -> list[socket.socket]:
    return listen(parts.config.application.host, parts.config.application.port)


def start_scheduler(parts: Parts, arguments: argparse.Namespace) -> int:
    with told_to_stop(parts.stop), scheduled(parts):
        wait_until(parts.stop)
    return DONE


def run_job(parts: Parts, arguments: argparse.Namespace) -> int:
    with told_to_stop(parts.stop):
        run = run_prune_dry if arguments.dry_run else JOBS[arguments.job]
        return told(run(parts))


def start_init_db(parts: Parts, arguments: argparse.Namespace) -> int:
    if arguments.print:
        tell(ddl(parts.tables, parts.engine.dialect).rstrip())
        return DONE
    return told(init_db(parts.engine, parts.tables))


def warn_of_useless_torrents(config: Config) -> None:
    if not (config.trackers or config.web_seeds):
        log.warning(
            "torrents have neither tracker nor web seed, nobody can download them: "
            "set torrents.trackers and application.public_url"
        )


def run_check(parts: Parts, arguments: argparse.Namespace) -> int:
    warn_of_useless_torrents(parts.config)
    return told(check(parts.probes()))


STARTS: dict[str | None, Callable[[Parts, argparse.Namespace], int]] = {
    None: start_daemon,
    "web": start_web,
    "scheduler": start_scheduler,
    "run": run_job,
    "init-db": start_init_db,
    "check": run_check,
}


def main(argv: Sequence[str] | None = None) -> int:
    take_any_text()
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    set_up_logging(arguments.debug)
    try:
        return _start(arguments)
    except ConfigInvalid as error:
        for problem in error.problems:
            print(f"docker_torrents: {error.where}: {problem}", file=sys.stderr)
        return USAGE
    except (DockerTorrentsError, SqlError, OSError) as error:
        print(f"docker_torrents: {error}", file=sys.stderr)
        return USAGE if isinstance(error, CannotListen) else FAILED
    except KeyboardInterrupt:
        # As any program that does nothing about it: a shell's loop ends with it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.raise_signal(signal.SIGINT)
        raise


def _start(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, checks=CHECKS)
    parts = Parts(config)
    log.debug("configuration read file=%s database=%s", arguments.config, parts.engine.url.set(query={}))
    if arguments.command in STARTS:
        return STARTS[arguments.command](parts, arguments)
    with told_to_stop(parts.stop):
        desk = Desk(
            parts.database, parts.tables, parts.registry, parts.places, parts.store, config, parts.stop
        )
        return COMMANDS[arguments.command, arguments.action](desk, arguments)


if __name__ == "__main__":
    sys.exit(main())
