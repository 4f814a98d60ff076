"""Waiting for what another process or thread does, never longer than said."""

from __future__ import annotations

import time
from collections.abc import Callable

POLL_SECONDS = 0.01


def comes_true(condition: Callable[[], object], timeout: float = 30.0) -> bool:
    """Whether `condition` holds now or within `timeout` seconds: `assert comes_true(lambda: …)`.

    Where it is to hold, the default is ample: a busy machine takes its time.
    """
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= give_up:
            return False
        time.sleep(POLL_SECONDS)
    return True
