"""Serves the web app of a configuration: `python -m tests.served_front FILE PORT`; for tests/web_server.py."""

from __future__ import annotations

import pickle
import sys
from functools import partial
from pathlib import Path
from typing import Any

import bottle

from core.config.config import Config
from core.server import serve
from docker_torrents import start_worker
from tests.constants import set_constants
from web.limits import THREADS


def build(config: Config, constants: dict[str, Any]) -> bottle.Bottle:
    """In the worker: set these constants (`module.NAME`), and return the app."""
    set_constants(constants)
    return start_worker(config, debug=False)


def main(file: str, port: str) -> int:
    """Serve, and return the exit status."""
    config, constants = pickle.loads(Path(file).read_bytes())
    return serve(partial(build, config, constants), "127.0.0.1", int(port), threads=THREADS, grace=2)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
