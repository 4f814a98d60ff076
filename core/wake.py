"""Wake the scheduler when there is work, through a FIFO in `state_dir`."""

from __future__ import annotations

import logging
import os
import select
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

_FIFO = "wake"
_PAUSE_SECONDS = 0.2
"""The pause after a wake-up: further ones within it count as one."""


def wake(state_dir: Path) -> None:
    """Wake the scheduler that works in `state_dir`. Never blocks or raises; without one it does nothing."""
    with suppress(OSError):
        fifo = os.open(state_dir / _FIFO, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(fifo, b"\n")
        finally:
            os.close(fifo)


class WakeListener:
    """Calls `woken` in a separate thread after each `wake(state_dir)`."""

    def __init__(self, state_dir: Path, woken: Callable[[], None]) -> None:
        self._state_dir = state_dir
        self._woken = woken
        self._running: tuple[threading.Thread, int] | None = None
        """The thread, and the eventfd(2) that ends it."""

    def start(self) -> None:
        """Create the FIFO if it is missing, and listen. Where it cannot be created, a warning is logged."""
        try:
            fifo = _open(self._state_dir / _FIFO)
        except OSError as error:
            log.warning("events cannot wake the scheduler, jobs start at their intervals reason=%s", error)
            return
        stopped = os.eventfd(0)
        thread = threading.Thread(target=self._listen, args=(fifo, stopped), name="wake", daemon=True)
        thread.start()
        self._running = thread, stopped

    def stop(self) -> None:
        """Stop listening."""
        if self._running is None:
            return
        thread, stopped = self._running
        self._running = None
        os.eventfd_write(stopped, 1)
        thread.join()
        os.close(stopped)

    def _listen(self, fifo: int, stopped: int) -> None:
        try:
            while stopped not in select.select([fifo, stopped], [], [])[0]:
                # Another process that listens here may have read it first.
                with suppress(BlockingIOError):
                    os.read(fifo, 65536)
                    self._woken()
                select.select([stopped], [], [], _PAUSE_SECONDS)
        finally:
            os.close(fifo)


def _open(path: Path) -> int:
    """Return the FIFO, opened for both ends so that it has no end. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    fifo = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(fifo).st_mode):
        os.close(fifo)
        raise FileExistsError(f"{path} is not a FIFO")
    return fifo
