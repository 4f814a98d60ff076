"""Standard output: where commands answer. Whoever reads it may stop, and it may be a full disk."""

from __future__ import annotations

import io
import os
import sys

from core.errors import DockerTorrentsError


class OutputFailed(DockerTorrentsError):
    """Standard output does not take what was to be said."""

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"standard output: {why}")


def take_any_text() -> None:
    """Has both streams put a ? for what their encoding lacks, where Python would break off."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def tell(line: str) -> None:
    """Puts a line out at once. It is no failure if nobody listens any more. Raises OutputFailed."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        _let_go()
    except OSError as error:
        _let_go()
        raise OutputFailed(error.strerror or str(error)) from error


def _let_go() -> None:
    """Sends the rest nowhere: what is still to be written would fail once more when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
