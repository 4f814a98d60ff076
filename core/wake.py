"""Wake the scheduler when there is work, through a FIFO in `state_dir`."""

from __future__ import annotations

import logging
import os
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
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Create the FIFO if it is missing, and listen. Where it cannot be created, a warning is logged."""
        try:
            fifo = _open(self._state_dir / _FIFO)
        except OSError as error:
            log.warning("events cannot wake the scheduler, jobs start at their intervals reason=%s", error)
            return
        self._thread = threading.Thread(target=self._listen, args=[fifo], name="wake", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening."""
        self._stop.set()
        if self._thread is not None:
            wake(self._state_dir)
            self._thread.join()

    def _listen(self, fifo: int) -> None:
        try:
            while os.read(fifo, 65536) and not self._stop.is_set():
                self._woken()
                self._stop.wait(_PAUSE_SECONDS)
        finally:
            os.close(fifo)


def _open(path: Path) -> int:
    """Return the FIFO, opened for both ends so that a read waits for the next writer. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        os.mkfifo(path, 0o600)
    fifo = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(fifo).st_mode):
        os.close(fifo)
        raise FileExistsError(f"{path} is not a FIFO")
    return fifo
