"""Stop the process in order on SIGTERM and SIGINT."""

from __future__ import annotations

import os
import signal
import threading
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_WAKE_SECONDS = 1.0


def wait_until(stop: threading.Event) -> None:
    """Return when `stop` is set.

    A signal that arrives just before the main thread blocks is handled only when the thread wakes (CPython's
    signal module, "Execution of Python signal handlers"), so it wakes every second.
    """
    while not stop.wait(_WAKE_SECONDS):
        pass


@contextmanager
def stop_on_signals(stop: threading.Event) -> Iterator[None]:
    """Set `stop` on SIGTERM and SIGINT within the block; a second SIGINT kills the process.

    Call this from the main thread. A process forked within the block has its own copy of `stop`.
    """

    def set_stop(number: int, _: object) -> None:
        # In another thread: this one may hold the event's lock while it waits for it.
        start_new_thread(stop.set, ())
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            with suppress(OSError):
                # Not through Python's stream: the signal may have interrupted a write to it.
                os.write(2, b"docker_torrents: stopping; press Ctrl-C again to quit at once\n")

    before = {number: signal.signal(number, set_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
