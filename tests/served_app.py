"""A small app served by core/server.py: `python -m tests.served_app PORT [WORKERS [GRACE [HOST [LOCK]]]]`."""

from __future__ import annotations

import atexit
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from core.server import serve

MIB = 1 << 20
LARGE = 64 * MIB


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes] | list[bytes]:
    """/wait answers after a byte from the FIFO in its query, /crash ends the worker, /large sends 64 MiB."""
    path = environ["PATH_INFO"]
    if path == "/wait":
        with open(environ["QUERY_STRING"], "rb", buffering=0) as fifo:
            print("requested", flush=True)
            fifo.read(1)
    if path == "/crash":
        os._exit(3)
    if path == "/large":
        start_response("200 OK", [("Content-Length", str(LARGE))])
        return (b"x" * MIB for _ in range(LARGE // MIB))
    body = f"{os.getpid()} {environ.get('HTTP_ACCEPT')}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def build() -> Callable[..., Any]:
    """Build the app, in each worker."""
    logging.basicConfig(level=logging.INFO)
    if os.environ.get("CANNOT_BUILD"):
        raise ValueError("cannot be built")
    atexit.register(print, "closed", flush=True)
    return app


def main(port: str, workers: str = "1", grace: str = "30", host: str = "127.0.0.1", lock: str = "") -> int:
    """Serve, and return the exit status."""
    logging.basicConfig(level=logging.INFO)
    return serve(
        build,
        host,
        int(port),
        workers=int(workers),
        threads=32,
        grace=int(grace),
        lock=Path(lock) if lock else None,
        on_start=lambda: print("started", flush=True),
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
