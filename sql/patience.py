"""An end to waiting for PostgreSQL, which psycopg2 has none of by itself.

PgBouncer takes connections for a server that is gone, and lets a query wait for two minutes; a server that
hangs, for ever. psycopg2 leaves its waiting to a function, one for the whole process, if it is given one
(its manual, "Coroutine libraries"): to this one, which waits as long as the thread has patience for.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class _Thread(threading.local):
    until: float | None = None


_thread = _Thread()


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """What this thread asks of PostgreSQL in here is answered within so many seconds from now, or raises
    psycopg2's OperationalError, and the connection is closed.
    """
    _thread.until = time.monotonic() + seconds
    try:
        yield
    finally:
        _thread.until = None


def teach(psycopg2: Any) -> None:
    """Make the module psycopg2 wait with patience. Without `patience` it waits for as long as it did."""
    ok, reading = psycopg2.extensions.POLL_OK, psycopg2.extensions.POLL_READ

    def wait(connection: Any) -> None:
        # The socket may be another one after each step of connecting.
        while (state := connection.poll()) != ok:
            waiting = select.poll()
            waiting.register(connection.fileno(), select.POLLIN if state == reading else select.POLLOUT)
            until = _thread.until
            left = None if until is None else max(0.0, until - time.monotonic()) * 1000
            if not waiting.poll(left):
                raise psycopg2.OperationalError("no answer in time")

    psycopg2.extensions.set_wait_callback(wait)
