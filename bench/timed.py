"""Measure the time of a function, and the memory of this process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import psutil


def timed(do: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds it took, and the peak growth of this process in MiB."""
    process = psutil.Process(os.getpid())
    before = highest = process.memory_info().rss
    over = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.05):
            highest = max(highest, process.memory_info().rss)

    watching = threading.Thread(target=watch)
    watching.start()
    begun = time.perf_counter()
    try:
        do()
        return time.perf_counter() - begun, (highest - before) / 2**20
    finally:
        over.set()
        watching.join()
