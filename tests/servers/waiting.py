"""Waiting for other processes or threads, with a time-out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

POLL_SECONDS = 0.01


def comes_true(condition: Callable[[], object], timeout: float = 60.0) -> bool:
    """Return whether `condition` holds now or within `timeout` seconds: `assert comes_true(lambda: …)`.

    The default is ample, as the machine may be busy.
    """
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= give_up:
            return False
        time.sleep(POLL_SECONDS)
    return True


def returns(call: Callable[[], object], timeout: float = 60.0) -> bool:
    """Return whether `call`, in a thread of its own, returns within `timeout` seconds."""
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(timeout)
    return not thread.is_alive()
