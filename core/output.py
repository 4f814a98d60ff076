"""Standard output, where commands print their results, and standard error."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable

from core.errors import LocalFailure


def replace_unencodable() -> None:
    """Make both streams write ? for characters that their encoding lacks, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def print_line(line: str) -> None:
    """Print a line at once. A closed pipe is ignored. Raises LocalFailure."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        _discard_rest()
    except OSError as error:
        _discard_rest()
        raise LocalFailure("standard output", error.strerror or str(error)) from error


def print_json(value: object) -> None:
    """Print a value as JSON. Raises LocalFailure."""
    print_line(json.dumps(value, indent=2))


def print_result(result: dict[str, object] | Iterable[str]) -> None:
    """Print a dict as JSON, otherwise each line. Raises LocalFailure."""
    if isinstance(result, dict):
        print_json(result)
    else:
        for line in result:
            print_line(line)


def print_error(message: str) -> None:
    """Print a message to standard error."""
    print(f"docker_torrents: {message}", file=sys.stderr)


def _discard_rest() -> None:
    """Redirect buffered output to /dev/null: writing it would fail again when the process ends."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, sys.stdout.fileno())
    os.close(devnull)
