"""docker_torrents: parse arguments, load the configuration, run a command.

How to add a command: declare it in COMMANDS, with the function that adds its options to an argparse parser
and sets `func` there. `func(config, arguments)` returns the exit status: 0 done, 1 some of the work failed,
2 wrong usage. A command that needs the database or the registry wraps its function by
`jobs.service.with_service` and gets a Service in place of the configuration.

Only the chosen command's module is imported. Cron starts a command every few seconds, and importing libraries
takes most of the time of a short one: what only some commands need is imported where it is used.
"""

from __future__ import annotations

import argparse
import atexit
import logging
import pkgutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from core.command_line import FAILED, USAGE, Command, parse, positive
from core.config.config import Config
from core.config.file import load_config
from core.config.section import Check, Checks
from core.errors import CannotListen, ConfigInvalid, DatabaseError, DockerTorrentsError
from core.logs import set_log_format, set_up_logging
from core.metrics import shared_metrics, start_metrics
from core.os_errors import os_reason
from core.output import print_error, replace_unencodable
from core.stopping import stop_on_signals

if TYPE_CHECKING:
    import bottle

    from jobs.service import Service
    from web.swarm_coordinator import CoordinatorAddress

log = logging.getLogger("docker_torrents")

_MAX_WORKERS = 256

COMMANDS = (
    Command(
        "web", "Run the web app without the scheduler.", "web --workers 2", "docker_torrents:add_web_options"
    ),
    Command(
        "swarm",
        "Answer the calls by which mirrors share their work, for web apps on several machines. nginx routes "
        "/v0/swarm here.",
        "swarm",
        "web.swarm_command:add_options",
    ),
    Command(
        "scheduler",
        "Run the scheduled jobs until stopped.",
        "scheduler",
        "jobs.scheduler_command:add_options",
    ),
    Command(
        "run", "Run one scheduled job once, for cron or a timer.", "run brew", "jobs.run_command:add_options"
    ),
    Command(
        "backfill",
        "Queue existing layers.",
        "backfill repository library/ubuntu",
        "jobs.backfill_commands:add_options",
    ),
    Command(
        "role",
        "Grant, revoke or list the rbtorrent role: pushes to repositories that have it are brewed.",
        "role grant 'library/*'",
        "jobs.role_commands:add_options",
    ),
    Command(
        "queue",
        "Show the queue, retry or drop failures. Layers that failed too often are set aside.",
        "queue status",
        "jobs.queue_commands:add_options",
    ),
    Command(
        "show",
        "Show the state of a layer, or how much of an image is brewed.",
        "show --wait --platform linux/amd64 library/ubuntu:22.04",
        "jobs.show:add_options",
    ),
    Command(
        "init-db",
        "Create missing tables and indexes in the database.",
        "init-db --print | psql",
        "jobs.installation:add_options",
    ),
    Command(
        "check",
        "Check the configuration and every dependency, or the mirror if only that is configured.",
        "check",
        "jobs.check:add_options",
    ),
    Command(
        "mirror",
        "Run the mirror of this machine: engines pull through it, layers come from other machines.",
        "mirror",
        "node.commands:add_options",
    ),
)


def _imported(name: str) -> Check:
    """Return a check that imports the function `name`, `module:function`, when it is called."""
    return lambda value: pkgutil.resolve_name(name)(value)


CHECKS = Checks(
    cron=_imported("jobs.cron:cron_trigger"),
    database_url=_imported("sql.engine:check_url"),
    database_host=_imported("sql.hosts:parse_host"),
)
"""Functions that validate values which core cannot validate."""


def web_app(service: Service, coordinator: CoordinatorAddress | None = None) -> bottle.Bottle:
    """Return the web app of this service. `coordinator` is the address of the one that workers share."""
    from core.access.access import choose_access
    from core.registry.client import RegistryClient
    from core.torrents.web_seeds import capability_secret
    from jobs.scheduled_jobs import expected_pauses
    from web.app import build_app
    from web.swarm_coordinator import RemoteCoordinator

    config = service.config
    # Without own credentials: callers send theirs.
    registry = RegistryClient(config.docker_registry, service.http())
    try:
        engine = service.database
    except DatabaseError as error:
        # Manifests are served without the database; notifications are refused until it is back.
        log.warning("web app starts without its database reason=%s", error)
        # As its database: it is back by the end, when an SQLite file has to contain everything.
        engine = service.database = service.writable_engine
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
        coordinator=RemoteCoordinator(coordinator) if coordinator else None,
        job_pauses=expected_pauses(config),
    )


def start_worker(
    config: Config,
    debug: bool,
    coordinator: CoordinatorAddress | None = None,
    metrics: Path | None = None,
) -> bottle.Bottle:
    """Return the app to serve, in a worker process. `metrics` is the folder of shared metrics."""
    from jobs.service import Service

    set_up_logging(debug)
    set_log_format(config.application.log_format)
    start_metrics(metrics if metrics and metrics.exists() else None)
    service = Service(config)
    atexit.register(service.close)
    app = web_app(service, coordinator)
    atexit.register(app.close)
    return app


def start_daemon(config: Config, arguments: argparse.Namespace) -> int:
    from jobs.scheduler_command import scheduled
    from jobs.service import with_service

    def serve(service: Service, arguments: argparse.Namespace) -> int:
        return _serve(service.config, arguments, service.stop, background=scheduled(service))

    return with_service(serve)(config, arguments)


def start_web(config: Config, arguments: argparse.Namespace) -> int:
    # Without a Service: this process starts workers and watches them.
    stop = threading.Event()
    with stop_on_signals(stop):
        return _serve(config, arguments, stop, workers=arguments.workers)


def _serve(
    config: Config,
    arguments: argparse.Namespace,
    stop: threading.Event,
    *,
    workers: int = 1,
    background: AbstractContextManager[None] | None = None,
) -> int:
    """Serve the web app until `stop` is set. `background` is entered in this process meanwhile."""
    from core.http.tls import trusted_bundle
    from core.server import serve
    from core.torrents.web_seeds import warn_of_useless_torrents
    from web.limits import THREADS
    from web.swarm_coordinator import LocalCoordinator, serve_coordinator

    application = config.application
    metrics = application.state_dir / f"metrics-{application.port}"
    # Report errors once, here: a worker that cannot start would be restarted again and again.
    trusted_bundle(config.tls.ca_file)
    warn_of_useless_torrents(config)
    secret = application.event_authorization
    if secret is None or not secret.get_secret_value():
        log.warning("application.event_authorization is not set: every notification is refused")
    with ExitStack() as running:

        def start() -> None:
            """Start in this process, once its lock is held and the address is known to be free."""
            running.enter_context(shared_metrics(metrics))
            if background is not None:
                running.enter_context(background)

        # A single worker has its own coordinator; several share one in this process.
        coordinator = running.enter_context(serve_coordinator(LocalCoordinator())) if workers > 1 else None
        return serve(
            partial(start_worker, config, bool(arguments.debug), coordinator, metrics),
            application.host,
            application.port,
            workers=workers,
            threads=THREADS,
            lock=application.state_dir / f"web-{application.port}.lock",
            stop=stop,
            on_start=start,
        )


def add_web_options(command: argparse.ArgumentParser) -> None:
    """Add the options of `web`."""
    command.set_defaults(func=start_web)
    command.add_argument("--workers", type=_workers, default=1, metavar="N", help="processes (default 1)")


def _workers(text: str) -> int:
    number = positive(text)
    if number > _MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"expected {_MAX_WORKERS} or fewer, got {text!r}")
    return number


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of any command. Exits with status 2 on a usage error."""
    return parse(COMMANDS, start_daemon, argv)


def _run(config: Config, arguments: argparse.Namespace) -> int:
    """Run the chosen command and return the exit status."""
    if arguments.command == "check":
        from node.check import check_node, is_node

        if is_node(config):
            return check_node(config)
    status: int = arguments.func(config, arguments)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Python's handler may wait until a blocking call returns, and a shell's loop would continue.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    replace_unencodable()
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    set_up_logging(arguments.debug)
    try:
        config = load_config(arguments.config, checks=CHECKS)
        set_log_format(config.application.log_format)
        log.debug("configuration read file=%s", arguments.config)
        return _run(config, arguments)
    except ConfigInvalid as error:
        for problem in error.problems:
            print_error(f"{error.where}: {problem}")
        return USAGE
    except DockerTorrentsError as error:
        print_error(str(error))
        return USAGE if isinstance(error, CannotListen) else FAILED
    except OSError as error:
        print_error(f"{error.filename}: {os_reason(error)}" if error.filename else os_reason(error))
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
