"""Handling of SIGTERM and SIGINT."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

import core.server
import docker_torrents
import jobs.scheduler_command
from core.config.config import Config
from core.stopping import stop_on_signals

BOTH = [signal.SIGTERM, signal.SIGINT]


class UnhandledSignal(Exception):
    """The signal would have ended the process."""


@pytest.fixture(autouse=True)
def outside() -> Iterator[None]:
    def fail(number: int, _: object) -> None:
        raise UnhandledSignal

    before = {number: signal.signal(number, fail) for number in BOTH}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_sets_the_event_within_the_block_only(number: signal.Signals) -> None:
    stop = threading.Event()
    with stop_on_signals(stop):
        send(number)
        assert stop.wait(60)
    with pytest.raises(UnhandledSignal):
        send(number)


def test_a_signal_may_arrive_while_the_event_is_waited_for() -> None:
    stop = threading.Event()
    with stop_on_signals(stop):
        # `wait` holds this lock too, while it checks the flag.
        with stop._cond:
            send(signal.SIGTERM)
        assert stop.wait(60)


def test_only_a_second_sigint_ends_the_process() -> None:
    with stop_on_signals(threading.Event()):
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL


@pytest.mark.parametrize("command", [[], ["scheduler"]], ids=["daemon", "scheduler"])
def test_a_signal_during_startup_stops_the_process_in_order(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[bool] = []

    class SignalledScheduler:
        """A scheduler during whose start the process gets SIGTERM."""

        def __init__(self, *_: object) -> None:
            pass

        def start(self) -> None:
            send(signal.SIGTERM)

        def stop(self, stop: threading.Event) -> None:
            ended.append(stop.is_set())

    monkeypatch.setattr(jobs.scheduler_command, "Scheduler", SignalledScheduler)

    def serve(*_: object, stop: threading.Event, on_start: Callable[[], object], **__: object) -> int:
        on_start()
        return 0 if stop.wait(60) else 1

    monkeypatch.setattr(core.server, "serve", serve)
    # Only a new process can share metrics with others.
    monkeypatch.setattr(docker_torrents, "shared_metrics", nullcontext)
    config = Config.model_validate(
        {"docker_registry": {"host": "registry"}, "application": {"state_dir": tmp_path}}
    )

    arguments = docker_torrents.parse_arguments(command)
    assert arguments.func(config, arguments) == 0
    assert ended == [True]
