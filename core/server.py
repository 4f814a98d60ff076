"""Serve a WSGI app with granian: the address, the worker processes, and stopping them.

granian runs the app in child processes (workers) and watches them from this one.
docs/decisions/wsgi-server.md has the reasons and figures. Its documented options and hooks are used, and its
own handler of SIGTERM, which is fetched from Python's table of handlers.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import multiprocessing
import os
import resource
import signal
import socket
import sys
import threading
import time
from _thread import start_new_thread
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from granian import Granian
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels

from core.errors import CannotListen, ConfigInvalid, DockerTorrentsError
from core.listening import ALL_IPV4, check_free, resolve_host
from core.os_errors import os_reason

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

GRACE_SECONDS = 10
"""The time for requests in flight after SIGTERM; then the worker is killed."""

BACKLOG = 1024
"""Connections that the kernel accepts before a worker does."""

MAX_CONNECTIONS = 10_000
"""Open connections per worker, including idle ones: granian accepts no more than its `backpressure`."""

_LOG: dict[str, object] = {"loggers": {"_granian": {}, "granian.access": {}}}
"""granian's own loggers pass their lines on to the root logger, which has this program's format."""

_POLL_SECONDS = 0.05
_STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})

log = logging.getLogger(__name__)


def serve(
    build_app: Callable[[], WSGIApplication],
    host: str,
    port: int,
    *,
    workers: int = 1,
    threads: int,
    grace: int = GRACE_SECONDS,
    lock: Path | None = None,
    stop: threading.Event | None = None,
    on_start: Callable[[], object] | None = None,
    replace_on_hangup: bool = True,
) -> int:
    """Serve the app until SIGTERM or SIGINT. Return the exit status: 0, or 1 if workers keep dying.

    `build_app` is called once in each worker, a freshly spawned process: it must be picklable, and set up
    logging itself. Each worker runs at most `threads` requests at once. When stopping, requests in flight
    have `grace` seconds. `lock` names a file that only one such process may hold. `stop` is set as soon as
    the signal arrives, before the workers have ended. `on_start` is called in this process once the address
    is known to be free. SIGHUP replaces the workers, starting each new one before the old one ends; without
    `replace_on_hangup` it does nothing. Call this from the main thread. Raises CannotListen; ConfigInvalid
    if the lock cannot be created.
    """
    stopping = stop or threading.Event()
    address = resolve_host(host, port)
    check_free(address, port)
    with ExitStack() as held:
        if lock is not None:
            held.enter_context(_locked(lock, address, port))
        _raise_descriptor_limit()
        # A forked worker would inherit locks and connections of this process, and skip atexit.
        multiprocessing.set_start_method("spawn", force=True)
        server = Granian(
            "app",
            address=address,
            port=port,
            interface=Interfaces.WSGI,
            http=HTTPModes.http1,
            workers=workers,
            blocking_threads=threads,
            backlog=BACKLOG,
            backpressure=_max_connections(),
            respawn_failed_workers=True,
            workers_kill_timeout=grace,
            # Its warnings are about numbers of threads and workers that are chosen here.
            log_level=LogLevels.error,
            log_dictconfig=_LOG,
        )
        server.on_startup(partial(_handle_signals, stopping))
        if not replace_on_hangup:
            server.on_startup(_ignore_hangup)
        server.on_startup(partial(_announce, host, address, port, workers, stopping))
        if on_start is not None:
            server.on_startup(on_start)
        try:
            server.serve(target_loader=partial(_load, build_app, grace), wrap_loader=False)
        except SystemExit:
            if not stopping.is_set():
                log.error("stopped: workers keep dying, the lines above say why")
                return 1
        return 0


@contextmanager
def _locked(path: Path, address: str, port: int) -> Iterator[None]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A user who could open it would keep the server from starting by holding it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        why = f"{path} cannot be created: {os_reason(error)}: choose a folder that this user may write to"
        raise ConfigInvalid("application.state_dir", [why]) from error
    with open(descriptor, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise CannotListen(address, port, f"another process holds {path}") from error
        yield


def _raise_descriptor_limit() -> None:
    """Raise the soft limit as far as allowed, for workers too: systemd's default of 1024 is for select(2)."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _max_connections() -> int:
    """Return half of the descriptors: the others are for the app's files and connections."""
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if descriptors == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, descriptors // 2)


def _handle_signals(stopping: threading.Event) -> None:
    """Stop granian once `stopping` is set, as SIGTERM and SIGINT do; a second SIGINT kills the process.

    Python's handlers run in the main thread, and granian lets it wait without a time-out: a signal that
    arrives just before it blocks would not be handled (CPython's signal module, "Execution of Python signal
    handlers"). The number of a signal is written to the wakeup descriptor in any case.
    """
    interrupt: Any = signal.getsignal(signal.SIGTERM)
    received, written = os.pipe()  # open until the process ends
    os.set_blocking(written, False)

    def handle(number: int, frame: object) -> None:
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)

    def watch() -> None:
        while not _STOP_SIGNALS.intersection(os.read(received, 64)):
            pass
        stopping.set()

    def stop() -> None:
        stopping.wait()
        interrupt(signal.SIGTERM, None)

    signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    for number in _STOP_SIGNALS:
        signal.signal(number, handle)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    threading.Thread(target=stop, name="stop", daemon=True).start()


def _ignore_hangup() -> None:
    def handle(number: int, frame: object) -> None:
        # In a thread: the main thread may hold a lock of the log.
        start_new_thread(log.warning, ("SIGHUP ignored: restart to read the configuration again",))

    signal.signal(signal.SIGHUP, handle)


def _announce(host: str, address: str, port: int, workers: int, stopping: threading.Event) -> None:
    """Log that the app is served once a worker accepts connections."""
    target = {"::": "::1", ALL_IPV4: "127.0.0.1"}.get(address, address)

    def wait() -> None:
        while not stopping.wait(_POLL_SECONDS):
            with suppress(OSError), socket.create_connection((target, port), timeout=1.0):
                log.info("serving host=%s port=%d workers=%d", host or address, port, workers)
                return

    threading.Thread(target=wait, name="announce", daemon=True).start()


def _load(build_app: Callable[[], WSGIApplication], grace: int) -> WSGIApplication:
    """Build the app, in a worker."""
    threading.Thread(target=_end_with_parent, args=(grace,), name="parent", daemon=True).start()
    try:
        app = build_app()
    except DockerTorrentsError as error:
        log.error("worker cannot start reason=%s", error)
        sys.exit(1)
    # Existing objects stay: the garbage collector need not scan them again.
    gc.collect()
    gc.freeze()
    return app


def _end_with_parent(grace: int) -> None:
    """End this worker when its parent process has ended, for example by SIGKILL."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace)
    os._exit(1)
