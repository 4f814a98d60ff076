"""The cluster under test: all the processes of a large installation, on 127.0.0.1."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import requests

from tests.chaos.fault_proxy import FaultProxy, start_fault_proxy
from tests.installation import Installation
from tests.servers.moto import Moto, start_moto
from tests.servers.pgbouncer import PgBouncer, start_pgbouncer
from tests.servers.postgres import OwnPostgres, start_postgres
from tests.servers.process import ServerFailed, ServerProcess, free_port
from tests.servers.registry import Registry, start_registry
from tests.servers.waiting import comes_true

Storage = Literal["s3", "disk"]
"""Where metainfo is: in S3, with layers read from the registry; or on a disk, with layers read from S3."""

DATABASE = "chaos"
SCOPES = "chaos/*"
EVENT_KEY = "chaos-events"
SECRET = "chaos-chaos-chaos-chaos-chaos-chaos"
WORKERS = 2
BREWERS = 2
BREW_DISCARD_TIMEOUT = 5
LAYER_RATE = 600_000
"""Bytes a second that a brewer reads of one layer: brewing takes long enough to be disturbed."""
DISK_SIZE = "8m"
START_SECONDS = 300.0
"""How long the web app may take to start: a minute was seen on a machine with twenty busy processes."""
PING_SECONDS = 30.0
"""Longer than a web worker is frozen."""

FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


class Serving:
    """Whether the web app and the registry should answer now. Otherwise a failure is excused.

    `url` is that of the web app.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._down: set[str] = set()
        self._up = threading.Event()
        self._up.set()
        self.changes = 0

    def down(self, name: str) -> None:
        """From now on failures are excused: `name` is about to be ended."""
        with self._lock:
            self.changes += 1
            self._down.add(name)
            self._up.clear()

    def up(self, name: str) -> None:
        """`name` was started again."""
        with self._lock:
            self.changes += 1
            self._down.discard(name)
            if not self._down:
                self._up.set()

    def disturb(self) -> None:
        """Excuse requests in progress, but not those that start later."""
        with self._lock:
            self.changes += 1

    def wait(self, timeout: float) -> bool:
        """Wait until all should answer; return whether they should."""
        return self._up.wait(timeout) and comes_true(self._answers, timeout)

    def _answers(self) -> bool:
        # Listening is not enough: it does so for a moment before it starts, to check that its port is free.
        try:
            return requests.get(f"{self._url}/ping", timeout=PING_SECONDS).ok
        except requests.RequestException:
            return False


@dataclass(frozen=True)
class Cluster:
    """The running processes. `clocks` are the files that the brewers' clocks follow, empty without faketime.

    `store` and `source` are proxies in front of where metainfo goes and layers come from, None where that is a
    disk; `disk` is the mounted file system of the metainfo.
    """

    folder: Path
    url: str
    postgres: OwnPostgres
    pgbouncer: PgBouncer
    registry: Registry
    web: ServerProcess
    brewers: list[ServerProcess]
    installation: Installation
    source: FaultProxy
    store: FaultProxy | None
    disk: Path | None
    clocks: list[Path]
    serving: Serving

    @property
    def database_url(self) -> str:
        """The database without PgBouncer in between, for the verdict."""
        return self.postgres.url(DATABASE)


@contextmanager
def start_cluster(folder: Path, storage: Storage) -> Iterator[Cluster]:
    """Run everything with its files in `folder`, and end all of it.

    Raises ServerMissing, ServerFailed; CalledProcessError where `disk` cannot be mounted.
    """
    with ExitStack() as running:
        port = free_port()
        moto = running.enter_context(start_moto(folder / "moto"))
        postgres = running.enter_context(start_postgres(_new(folder / "postgres")))
        postgres.create_database(DATABASE)
        pgbouncer = running.enter_context(start_pgbouncer(folder / "pgbouncer", postgres, pool_size=8))
        registry = running.enter_context(_start_registry(folder, storage, moto, port))
        s3_proxy = running.enter_context(start_fault_proxy(moto.endpoint, LAYER_RATE))
        if storage == "s3":
            disk, store = None, s3_proxy
            source = running.enter_context(start_fault_proxy(registry.url, LAYER_RATE))
        else:
            disk, store, source = running.enter_context(_mounted(folder / "disk")), None, s3_proxy
        places = _places(storage, moto, s3_proxy, disk)
        common = {**_common(port, pgbouncer.url(DATABASE)), **places}
        web = _installation(folder / "web", registry.netloc, common)
        reading = source.netloc if storage == "s3" else registry.netloc
        hosts = [_installation(folder / f"brewer-{n + 1}", reading, common) for n in range(BREWERS)]
        clocks = [_clock(host) for host in hosts] if FAKETIME else []
        web.run("init-db")
        web.run("role", "grant", SCOPES)
        processes = [web.process("web", "--workers", str(WORKERS), name="web")]
        # The first brewer is on the web app's host: events wake it.
        hosts[0].sections["application"]["state_dir"] = str(web.state)
        hosts[0] = _installation(hosts[0].folder, reading, hosts[0].sections)
        for number, host in enumerate(hosts):
            environment = _follow(clocks[number]) if clocks else None
            processes.append(host.process("scheduler", environment=environment, name="brewer"))
        for process in processes:
            running.callback(process.kill)
            process.start()
        url = f"http://127.0.0.1:{port}"
        serving = Serving(url)
        if not serving.wait(START_SECONDS):
            raise ServerFailed(processes[0].argv, f"not ready after {START_SECONDS:g} s", processes[0].log)
        yield Cluster(
            folder,
            url,
            postgres,
            pgbouncer,
            registry,
            processes[0],
            processes[1:],
            web,
            source,
            store,
            disk,
            clocks,
            serving,
        )


def can_mount() -> bool:
    """Return whether this user may mount the small disk that is to be full."""
    return os.geteuid() == 0 and _try_mount()


def _try_mount() -> bool:
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _start_registry(folder: Path, storage: Storage, moto: Moto, port: int) -> Any:
    endpoint: Any = {
        "url": f"http://127.0.0.1:{port}/v0/event",
        "headers": {"Authorization": [EVENT_KEY]},
        "timeout": "2s",
        "threshold": 3,
        "backoff": "500ms",
    }
    s3 = moto.registry_storage(moto.create_bucket("registry")) if storage == "disk" else None
    return start_registry(
        _new(folder / "registry"), notifications=[endpoint], includereferences=True, s3=s3, redirect=False
    )


def _common(port: int, database_url: str) -> dict[str, Any]:
    return {
        "application": {
            "port": port,
            "public_url": f"http://127.0.0.1:{port}",
            "event_authorization": EVENT_KEY,
        },
        "db": {"url": database_url, "connect_timeout": 1, "max_pool_size": 20},
        "brewer": {
            "brew_discard_timeout": BREW_DISCARD_TIMEOUT,
            "sleep_time": 1,
            "layers_per_chunk": 4,
            "workers": 2,
        },
        # Much more often than in production, so that each of them meets each fault.
        "jobs": {
            "release-locks": {"interval": 2},
            "resolve-manifests": {"interval": 2},
            "scan-tags": {"interval": 8},
            "prune": {"interval": 4, "grace": 3, "limit": 50},
        },
    }


def _places(storage: Storage, moto: Moto, proxy: FaultProxy, disk: Path | None) -> dict[str, Any]:
    """Return the sections on where layers are read from and metainfo is kept."""
    keys = {"access_key": moto.access_key, "secret_key": moto.secret_key, "region": moto.region}
    s3 = {"endpoint_url": proxy.url, **keys}
    seed = {"web_seed_secret": SECRET}
    if storage == "s3":
        return {
            "torrents": {"store": "s3", **seed},
            "s3": {**s3, "bucket": moto.create_bucket("torrents")},
        }
    return {
        "torrents": {"directory": f"{disk}/metainfo", **seed},
        "layers": {"source": "s3", "bucket": "registry"},
        "s3": s3,
    }


def _installation(folder: Path, registry: str, sections: dict[str, Any]) -> Installation:
    return Installation(folder, registry, **sections)


def _clock(host: Installation) -> Path:
    clock = host.folder / "clock"
    clock.write_text("+0\n")
    # Python's sleep fails under libfaketime 0.9.10: it takes the absolute time of clock_nanosleep(2) for a relative one.
    (host.folder / "sitecustomize.py").write_text(_SLEEP)
    return clock


_SLEEP = """\
import select
import time

time.sleep = lambda seconds: select.select([], [], [], seconds) and None
"""


def _follow(clock: Path) -> dict[str, str]:
    """Return the environment in which a process's clock follows the file (faketime(1))."""
    return {
        "LD_PRELOAD": str(FAKETIME),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(clock.parent), os.environ.get("PYTHONPATH")))),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@contextmanager
def _mounted(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "tmpfs", str(folder)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
