"""Ends the process in an orderly way when it is told to."""

from __future__ import annotations

import os
import signal
import threading
from _thread import start_new_thread
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NOTICED_SECONDS = 1.0


def wait_until(stop: threading.Event) -> None:
    """Returns when `stop` is set.

    A signal that comes in the moment in which the main thread falls asleep is not looked at before it wakes
    (CPython's signal module, "Execution of Python signal handlers"): so it wakes every second.
    """
    while not stop.wait(_NOTICED_SECONDS):
        pass


@contextmanager
def told_to_stop(stop: threading.Event) -> Iterator[None]:
    """Within the block SIGTERM and SIGINT set `stop`; a second SIGINT, from an impatient terminal, kills.

    For the main thread. A process forked within the block does the same to its own copy of `stop`.
    """

    def set_it(number: int, _: object) -> None:
        # Not here: the signal may have come while this thread holds the event's own lock, to wait for it.
        start_new_thread(stop.set, ())
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)
            with suppress(OSError):
                # Past Python's own stream, in the middle of whose work the signal may have come.
                os.write(2, b"docker_torrents: stopping; once more ends it at once\n")

    before = {number: signal.signal(number, set_it) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
