"""`web --workers N`: the app in this process, or in N of them that share its sockets."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Protocol

from core.stopping import wait_until
from web.protocol_errors import RefusesBody
from web.server import GRACE_SECONDS, THREADS, WebServer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_POLL_SECONDS = 0.1
# A worker that ends sooner than this would end again.
_TOO_SOON_SECONDS = 2.0
# Beyond the grace, for what a worker still has to close.
_END_SECONDS = 3.0

log = logging.getLogger(__name__)


class App(Protocol):
    """A WSGI app (PEP 3333) that ends its own threads when it is closed."""

    @property
    def refuses_body(self) -> RefusesBody: ...
    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse, /) -> Iterator[bytes]: ...
    def close(self) -> None: ...


def serve(
    build: Callable[[], App],
    listening: Sequence[socket.socket],
    stop: threading.Event,
    *,
    workers: int = 1,
    threads: int = THREADS,
    grace: float = GRACE_SECONDS,
) -> int:
    """Serve until `stop` is set, by SIGTERM for one; then requests in flight have `grace` seconds to finish.

    `listening` are sockets that listen already (web/listen.py). `build` makes the app, once in each of
    `workers` processes, after these have been forked: nothing that it makes is shared. With more than one,
    call this from the main thread, while there is no other, and have SIGTERM set `stop` (core/stopping.py):
    that is how workers are ended. Returns the exit status: 0 when it was told to stop, 1 when the server or a
    worker does not stay up.
    """
    host, port = listening[0].getsockname()[:2]
    log.info("serving at %s port %d with %d workers", host, port, workers)
    _raise_descriptor_limit()
    if workers == 1:
        return _serve_here(build, listening, threads, grace, stop)
    return _supervise(build, listening, workers, threads, grace, stop)


def _serve_here(
    build: Callable[[], App],
    listening: Sequence[socket.socket],
    threads: int,
    grace: float,
    stop: threading.Event,
) -> int:
    """Returns the exit status. A server that ends by itself sets `stop`: the rest of the process ends too."""
    app = build()
    # What is there now stays: the collector need not look through it again and again.
    gc.collect()
    gc.freeze()
    server = WebServer(app, listening, threads=threads, refuses_body=app.refuses_body, ended=stop.set)
    try:
        wait_until(stop)
    finally:
        server.stop(grace)
        app.close()
    return 1 if server.failed else 0


def _raise_descriptor_limit() -> None:
    """As far as the system lets us: systemd starts services with 1024, for programs that call select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # OSError, ValueError: it is kept as it is.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _supervise(
    build: Callable[[], App],
    listening: Sequence[socket.socket],
    workers: int,
    threads: int,
    grace: float,
    stop: threading.Event,
) -> int:
    context = multiprocessing.get_context("fork")
    running: dict[BaseProcess, float] = {}

    def start() -> None:
        process = context.Process(
            target=_work, args=(build, listening, threads, grace, stop), name="web worker"
        )
        process.start()
        running[process] = time.monotonic()

    status = 0
    try:
        for _ in range(workers):
            start()
        while not stop.wait(_POLL_SECONDS) and not status:
            for process in [process for process in running if not process.is_alive()]:
                lived = time.monotonic() - running.pop(process)
                log.error("a worker ended by itself: exit code %s", process.exitcode)
                if lived < _TOO_SOON_SECONDS:
                    status = 1
                else:
                    start()
    finally:
        for opened in listening:
            opened.close()
        _end(list(running), grace + _END_SECONDS)
    return status


def _end(processes: Sequence[BaseProcess], patience: float) -> None:
    give_up = time.monotonic() + patience
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(max(0.0, give_up - time.monotonic()))
        if process.is_alive():
            log.error("a worker did not end in time and was killed")
            process.kill()
            process.join()


def _work(
    build: Callable[[], App],
    listening: Sequence[socket.socket],
    threads: int,
    grace: float,
    stop: threading.Event,
) -> None:
    """What a worker does. It stops as well when the process that forked it is gone."""
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
        stop.set()

    threading.Thread(target=follow, name="parent", daemon=True).start()
    status = _serve_here(build, listening, threads, grace, stop)
    if status:
        sys.exit(status)
