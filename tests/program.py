"""Runs docker_torrents with constants set: `python -m tests.program '{"module.NAME": VALUE}' WORDS…`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docker_torrents import main
from tests.constants import set_constants
from tests.servers.process import ServerProcess

if TYPE_CHECKING:
    from tests.installation import Installation

ROOT = Path(__file__).parents[1]


def program_with(constants: Mapping[str, Any]) -> list[str]:
    """Return what runs docker_torrents with these constants (`module.NAME`), in the folder ROOT."""
    return [sys.executable, "-m", "tests.program", json.dumps(dict(constants))]


def program(
    installation: Installation,
    *words: str,
    constants: Mapping[str, Any],
    ready: Callable[[], bool],
    name: str = "program",
) -> ServerProcess:
    """Return a command as `Installation.process` does, with these constants (`module.NAME`)."""
    return ServerProcess(
        [*program_with(constants), "-c", installation.config, *words],
        ready=ready,
        log=installation.folder / f"{name}.log",
        cwd=ROOT,
        grace=60.0,
    )


if __name__ in ("__main__", "__mp_main__"):
    # A worker is a new process with the same arguments, in which this module is `__mp_main__`.
    set_constants(json.loads(sys.argv[1]))

if __name__ == "__main__":
    sys.exit(main(sys.argv[2:]))
