"""docker_torrents: parse arguments, load the configuration, run a command.

How to add a command: each room has a function `add_commands(commands)` (jobs/commands.py, node/commands.py),
which `parse_arguments` below calls. It calls `core.command_line.add_command(commands, name, help, example,
func)`; `func(config, arguments)` returns the exit status: 0 done, 1 some of the work failed, 2 wrong usage.
A command that needs the database or the registry wraps its function by `jobs.service.with_service` and gets a
Service in place of the configuration. Import what only one command needs (libtorrent) in its `func`.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import bottle

from core.access.access import choose_access
from core.command_line import FAILED, USAGE, Commands, add_command, build_parser, parse, positive
from core.config.checks import Checks
from core.config.config import Config
from core.config.file import load_config
from core.errors import CannotListen, ConfigInvalid, DatabaseError, DockerTorrentsError
from core.logs import set_log_format, set_up_logging
from core.metrics import shared_metrics, start_metrics
from core.output import print_error, replace_unencodable
from core.registry.client import RegistryClient
from core.server import serve
from core.torrents.web_seeds import capability_secret
from jobs import commands as jobs_commands
from jobs.commands import scheduled
from jobs.installation import warn_of_useless_torrents
from jobs.scheduled_jobs import expected_pauses
from jobs.scheduler import cron_trigger
from jobs.service import Service, with_service
from node import commands as node_commands
from sql.engine import check_url
from sql.hosts import parse_host
from web.app import SWARM_THREADS, THREADS, build_app, build_swarm_app
from web.swarm_book import BookAddress, LocalBook, RemoteBook, serve_book

log = logging.getLogger("docker_torrents")

_MOST_WORKERS = 256

CHECKS = Checks(cron=cron_trigger, database_url=check_url, database_host=parse_host)
"""Functions that validate values which core does not know how to read."""


def web_app(service: Service, book: BookAddress | None = None) -> bottle.Bottle:
    """Return the web app of this service. `book` is where several workers find their lease book."""
    config = service.config
    # Without credentials of our own: callers bring theirs.
    registry = RegistryClient(config.docker_registry, service.http())
    try:
        engine = service.database
    except DatabaseError as error:
        # Manifests are served without the database; notifications are refused until it is back.
        log.warning("web app starts without its database reason=%s", error)
        engine = service.writable_engine
    return build_app(
        config,
        engine=engine,
        tables=service.tables,
        registry=registry,
        own_registry=service.registry,
        access=choose_access(config, registry, time.monotonic),
        source=service.source,
        store=service.store,
        capability_secret=capability_secret(config),
        book=RemoteBook(book) if book else None,
        job_pauses=expected_pauses(config),
    )


def start_worker(
    config: Config, debug: bool, book: BookAddress | None = None, metrics: Path | None = None
) -> bottle.Bottle:
    """In a worker process: return the app to serve. `metrics` is where processes share their metrics."""
    set_up_logging(debug)
    set_log_format(config.application.log_format)
    start_metrics(metrics if metrics and metrics.exists() else None)
    service = Service(config)
    atexit.register(service.close)
    app = web_app(service, book)
    atexit.register(app.close)
    return app


def start_swarm_worker(config: Config, debug: bool) -> bottle.Bottle:
    """In the worker of `swarm`: return the app to serve."""
    set_up_logging(debug)
    set_log_format(config.application.log_format)
    start_metrics()
    return build_swarm_app(config, capability_secret=capability_secret(config))


def start_daemon(service: Service, arguments: argparse.Namespace) -> int:
    return _serve(service, arguments, jobs=True)


def start_web(service: Service, arguments: argparse.Namespace) -> int:
    return _serve(service, arguments, workers=arguments.workers)


def _serve(
    service: Service,
    arguments: argparse.Namespace,
    *,
    workers: int = 1,
    jobs: bool = False,
) -> int:
    application = service.config.application
    metrics = application.state_dir / f"metrics-{application.port}"
    warn_of_useless_torrents(service.config)
    secret = application.event_authorization
    if secret is None or not secret.get_secret_value():
        log.warning("application.event_authorization is not set: every notification is refused")
    with ExitStack() as running:

        def start() -> None:
            """In this process, once its lock is held and the address is known to be free."""
            running.enter_context(shared_metrics(metrics))
            if jobs:
                running.enter_context(scheduled(service))

        # One worker keeps the lease book itself; several use one in this process.
        book = running.enter_context(serve_book(LocalBook())) if workers > 1 else None
        return serve(
            partial(start_worker, service.config, bool(arguments.debug), book, metrics),
            application.host,
            application.port,
            workers=workers,
            threads=THREADS,
            lock=application.state_dir / f"web-{application.port}.lock",
            stop=service.stop,
            on_start=start,
        )


def start_swarm(config: Config, arguments: argparse.Namespace) -> int:
    application = config.application
    return serve(
        partial(start_swarm_worker, config, bool(arguments.debug)),
        application.host,
        application.swarm_port,
        threads=SWARM_THREADS,
        lock=application.state_dir / f"swarm-{application.swarm_port}.lock",
    )


def _workers(text: str) -> int:
    number = positive(text)
    if number > _MOST_WORKERS:
        raise argparse.ArgumentTypeError(f"expected {_MOST_WORKERS} or fewer, got {text!r}")
    return number


def _add_web(commands: Commands) -> None:
    web = add_command(
        commands, "web", "Run the web app without the scheduler.", "web --workers 2", with_service(start_web)
    )
    web.add_argument("--workers", type=_workers, default=1, metavar="N", help="processes (default 1)")
    add_command(
        commands,
        "swarm",
        "Answer swarm calls alone. Where several machines run the web app, nginx routes /v0/swarm here.",
        "swarm",
        start_swarm,
    )


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of any command. Exits with status 2 on a usage error."""
    parser, commands = build_parser(default=with_service(start_daemon))
    _add_web(commands)
    jobs_commands.add_commands(commands)
    node_commands.add_commands(commands)
    return parse(parser, argv)


def main(argv: Sequence[str] | None = None) -> int:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Python's handler may wait until a blocking call returns, and a shell's loop would go on.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    replace_unencodable()
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    set_up_logging(arguments.debug)
    try:
        config = load_config(arguments.config, checks=CHECKS)
        set_log_format(config.application.log_format)
        log.debug("configuration read file=%s", arguments.config)
        if arguments.command == "check" and node_commands.is_node(config):
            return node_commands.check(config, arguments)
        status: int = arguments.func(config, arguments)
        return status
    except ConfigInvalid as error:
        for problem in error.problems:
            print_error(f"{error.where}: {problem}")
        return USAGE
    except (DockerTorrentsError, DatabaseError, OSError) as error:
        print_error(str(error))
        return USAGE if isinstance(error, CannotListen) else FAILED


if __name__ == "__main__":
    sys.exit(main())
