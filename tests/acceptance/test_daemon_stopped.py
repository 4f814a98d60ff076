"""The daemon, stopped at any moment: it exits in order, and no layer stays locked."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.installation import Installation
from tests.servers.bad_http import dripping
from tests.servers.http_server import start_http_server
from tests.servers.layers import layer_bytes
from tests.servers.process import ServerProcess, free_port
from tests.servers.push import push_image
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true

SIZE = 400_000
LAYERS = 3


@dataclass
class Daemon:
    """An installation with layers in its queue, whose registry sends a blob in about a minute."""

    slow: Installation
    usual: Installation
    """The same queue, with a working registry."""

    def locked(self) -> int:
        """Return the number of locked layers."""
        query = "SELECT count(*) FROM rbtorrent_mapping WHERE brew_lock IS NOT NULL"
        number: int = self.slow.sqlite_value(query)
        return number

    def running(self) -> ServerProcess:
        """Return the daemon, to be run by a `with` block."""
        return self.slow.process(name="daemon")

    @property
    def log(self) -> str:
        return (self.slow.folder / "daemon.log").read_text()


@pytest.fixture
def daemon(tmp_path: Path, registry: Registry, scope: str) -> Iterator[Daemon]:
    state = {"state_dir": str(tmp_path / "slow/state"), "host": "127.0.0.1"}
    usual = Installation(tmp_path / "usual", registry, application=state)
    push_image(registry, scope, "v1", [layer_bytes(SIZE, 900 + seed) for seed in range(LAYERS)])
    usual.run("backfill", "repository", scope)
    with start_http_server() as server:
        server.on(f"/v2/{scope}/blobs/*", dripping(bytes(SIZE), size=SIZE // 200, seconds=0.3))
        slow = Installation(
            tmp_path / "slow",
            server.netloc,
            application={**state, "port": free_port()},
            brewer={"sleep_time": 0.2},
            layers={"connections": 1},
        )
        yield Daemon(slow, usual)


def test_a_daemon_that_is_brewing_returns_its_layers(daemon: Daemon) -> None:
    with daemon.running() as process:
        assert comes_true(lambda: daemon.locked() == LAYERS)

        process.send_signal(signal.SIGTERM)

        assert process.exit_status() == 0
        # Before `locked`, whose connection would do the same as it closes.
        assert [file.name for file in daemon.slow.state.glob("*.sqlite*")] == ["docker_torrents.sqlite"]
    assert daemon.locked() == 0
    assert f'result="brewed 0, failed 0, returned {LAYERS}, waiting {LAYERS}"' in daemon.log
    assert daemon.usual.last_line("run", "brew") == f"brewed {LAYERS}, failed 0, waiting 0"


@pytest.mark.parametrize("said", ["scheduler started", "every notification is refused", "serving host="])
def test_a_daemon_that_is_starting_exits_with_0(daemon: Daemon, said: str) -> None:
    with daemon.running() as process:
        assert comes_true(lambda: said in daemon.log)

        process.send_signal(signal.SIGTERM)

        assert process.exit_status() == 0
    assert daemon.locked() == 0


def test_a_daemon_leaves_nothing_locked_whenever_it_is_stopped(daemon: Daemon) -> None:
    for tenths in range(3):
        with daemon.running() as process:
            time.sleep(tenths / 10)

            process.send_signal(signal.SIGTERM)

            # Before its handler is installed the signal ends the process.
            assert process.exit_status() in (0, -signal.SIGTERM)
        assert daemon.locked() == 0

    for tenths in range(7):
        earlier = daemon.log.count("scheduler started")
        with daemon.running() as process:
            assert comes_true(lambda earlier=earlier: daemon.log.count("scheduler started") > earlier)
            time.sleep(tenths / 10)

            process.send_signal(signal.SIGTERM)

            assert process.exit_status() == 0
        assert daemon.locked() == 0
