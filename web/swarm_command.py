"""`swarm`: answer swarm calls alone, for several web workers or replicas."""

from __future__ import annotations

import argparse
from functools import partial

import bottle

from core.config.config import Config
from core.logs import set_log_format, set_up_logging
from core.metrics import start_metrics
from core.server import serve
from core.torrents.web_seeds import capability_secret
from web.app import build_swarm_app

THREADS = 64
"""Calls wait for nothing."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the function of `swarm`."""
    command.set_defaults(func=start_swarm)


def start_swarm(config: Config, arguments: argparse.Namespace) -> int:
    """Serve swarm calls until SIGTERM. Return the exit status."""
    application = config.application
    return serve(
        partial(_build_app, config, bool(arguments.debug)),
        application.host,
        application.swarm_port,
        threads=THREADS,
        lock=application.state_dir / f"swarm-{application.swarm_port}.lock",
    )


def _build_app(config: Config, debug: bool) -> bottle.Bottle:
    """Build the app in the worker."""
    set_up_logging(debug)
    set_log_format(config.application.log_format)
    start_metrics()
    return build_swarm_app(config, capability_secret=capability_secret(config))
