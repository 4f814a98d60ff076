"""Limits on concurrent requests: which requests wait for a slot, and which are refused."""

from __future__ import annotations

import queue
import threading

import bottle

from web.limits import ConcurrencyLimit


def test_only_a_bounded_number_of_requests_waits_for_a_slot() -> None:
    concurrency = ConcurrencyLimit("tests", 1, waiting=2, seconds=60.0)
    outcomes: queue.SimpleQueue[str] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with concurrency.slot():
                outcomes.put("served")
        except bottle.HTTPResponse as refused:
            outcomes.put(refused.status_line)

    threads = [threading.Thread(target=ask) for _ in range(5)]
    with concurrency.slot():
        for thread in threads:
            thread.start()
        assert [outcomes.get(timeout=60) for _ in range(3)] == ["503 Service Unavailable"] * 3
    for thread in threads:
        thread.join()
    assert [outcomes.get(timeout=60) for _ in range(2)] == ["served"] * 2
