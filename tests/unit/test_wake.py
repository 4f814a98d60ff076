"""Waking the scheduler through a FIFO."""

from __future__ import annotations

import os
import queue
import stat
import threading
from pathlib import Path

import pytest

from core.wake import WakeListener, wake
from tests.servers.waiting import returns


def test_each_wake_is_received(tmp_path: Path) -> None:
    heard: queue.SimpleQueue[None] = queue.SimpleQueue()
    listener = WakeListener(tmp_path / "state", lambda: heard.put(None))
    listener.start()
    try:
        for _ in range(3):
            wake(tmp_path / "state")
            heard.get(timeout=60)
        assert stat.S_IMODE((tmp_path / "state/wake").stat().st_mode) == 0o600
    finally:
        listener.stop()
    assert "wake" not in {thread.name for thread in threading.enumerate()}


def test_a_listener_stops_though_its_fifo_was_removed(tmp_path: Path) -> None:
    listener = WakeListener(tmp_path, lambda: None)
    listener.start()
    (tmp_path / "wake").unlink()
    assert returns(listener.stop)


def test_without_a_scheduler_nothing_happens(tmp_path: Path) -> None:
    wake(tmp_path / "missing")
    os.mkfifo(tmp_path / "wake")
    wake(tmp_path)


def test_a_full_fifo_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "wake")
    reader = os.open(tmp_path / "wake", os.O_RDWR)
    try:
        for _ in range(70_000):
            wake(tmp_path)
    finally:
        os.close(reader)


def test_a_file_in_its_place_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "wake").touch()
    listener = WakeListener(tmp_path, lambda: None)
    listener.start()
    listener.stop()
    assert "is not a FIFO" in caplog.text
