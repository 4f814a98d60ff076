"""The faults of the cluster, and a schedule of them, made from a seed."""

from __future__ import annotations

import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg2

from tests.chaos.cluster import BREW_DISCARD_TIMEOUT, DATABASE, Cluster
from tests.chaos.fault_proxy import Fault as ProxyFault
from tests.chaos.fault_proxy import FaultProxy
from tests.installation import worker_pids
from tests.servers.process import ServerProcess, frozen
from tests.servers.waiting import comes_true

MAX_AT_ONCE = 3
"""The number of simultaneous faults."""

Act = Callable[[], object]


def _nothing() -> None:
    """End a fault that is over at once."""


@dataclass(frozen=True)
class Fault:
    """Something that happens to `target` by `begin`, and lasts between these seconds, until `end`.

    One target has one fault at a time. Faults of one `kind` differ only in what they happen to, or how far a
    clock steps.
    """

    name: str
    target: str
    begin: Act
    end: Act = _nothing
    lasts: tuple[float, float] = (0.0, 0.0)

    @property
    def kind(self) -> str:
        """The name without which brewer, and how far."""
        return re.sub(r" \d\b| by \S+", "", self.name)


@dataclass(frozen=True)
class Planned:
    """A fault with the seconds since the beginning at which it begins and ends."""

    begins: float
    ends: float
    fault: Fault


def plan(faults: list[Fault], duration: float, chance: random.Random) -> list[Planned]:
    """Return faults that begin within `duration` seconds, or later until each kind has come once.

    Every kind comes before one comes again.
    """
    kinds = sorted({fault.kind for fault in faults})
    planned: list[Planned] = []
    deck = chance.sample(kinds, len(kinds))
    now = 2.0
    while now < duration or len(planned) < len(kinds):
        going = [one for one in planned if one.ends > now]
        if len(going) < MAX_AT_ONCE:
            deck = deck or chance.sample(kinds, len(kinds))
            busy = {one.fault.target for one in going}
            free = [fault for fault in faults if fault.target not in busy and fault.kind in deck]
            if free:
                kind = min((one.kind for one in free), key=deck.index)
                fault = chance.choice([one for one in free if one.kind == kind])
                deck.remove(fault.kind)
                planned.append(Planned(now, now + chance.uniform(*fault.lasts), fault))
        now += 0.2 + chance.expovariate(1 / 1.5)
    return planned


def faults_of(cluster: Cluster, chance: random.Random) -> list[Fault]:
    """Return every fault that this cluster can have."""
    return [
        *_brewer_faults(cluster),
        *_web_faults(cluster, chance),
        *_database_faults(cluster),
        *_registry_faults(cluster),
        *_proxy_faults("layer source", cluster.source, ("unavailable", "slow", "cut")),
        *_proxy_faults("metainfo store", cluster.store, ("unavailable", "slow")),
        *_disk_faults(cluster.disk),
        *_clock_faults(cluster.clocks),
    ]


def _brewer_faults(cluster: Cluster) -> Iterator[Fault]:
    past = (1.2 * BREW_DISCARD_TIMEOUT, 3.0 * BREW_DISCARD_TIMEOUT)
    for number, brewer in enumerate(cluster.brewers, 1):
        name = f"brewer {number}"
        yield Fault(f"{name} is killed", name, brewer.kill, brewer.start, (0.2, 4.0))
        yield Fault(f"{name} is killed and started at once", name, partial(_restart, brewer))
        yield Fault(f"{name} is stopped", name, *_ending(brewer), (0.2, 8.0))
        yield Fault(f"{name} is frozen past its locks' time-out", name, *_freezing(brewer), past)


def _web_faults(cluster: Cluster, chance: random.Random) -> Iterator[Fault]:
    web, serving = cluster.web, cluster.serving

    def down(end: Act) -> None:
        serving.down("web")
        end()

    def up() -> None:
        web.start()
        serving.up("web")

    def worker() -> int:
        # One that was just started has none for a while.
        found: list[int] = []
        assert comes_true(lambda: found.extend(worker_pids(web)) or found, 120), f"no workers: {web.log}"
        return chance.choice(found)

    freezing = ExitStack()

    yield Fault("the web app is killed", "web", partial(down, web.kill), up, (0.2, 3.0))
    yield Fault("the web app is stopped", "web", partial(down, web.stop), up, (0.2, 3.0))

    def kill_worker() -> None:
        os.kill(worker(), signal.SIGKILL)
        serving.disturb()

    yield Fault("a web worker is killed", "web", kill_worker)
    yield Fault(
        "a web worker is frozen",
        "web",
        lambda: freezing.enter_context(frozen(worker())),
        freezing.close,
        (2.0, 8.0),
    )


def _database_faults(cluster: Cluster) -> Iterator[Fault]:
    postgres, pgbouncer = cluster.postgres, cluster.pgbouncer
    yield Fault("PostgreSQL is stopped", "postgres", postgres.stop, postgres.start, (0.5, 8.0))
    yield Fault("PostgreSQL crashes", "postgres", postgres.crash, postgres.start, (0.2, 5.0))
    yield Fault("PgBouncer cuts all connections", "pgbouncer", lambda: cut_connections(cluster))
    yield Fault("PgBouncer is stopped", "pgbouncer", pgbouncer.stop, pgbouncer.start, (0.2, 4.0))
    yield Fault("PgBouncer is frozen", "pgbouncer", *_freezing(pgbouncer.process), (1.0, 10.0))


def _registry_faults(cluster: Cluster) -> Iterator[Fault]:
    def down(end: Act) -> None:
        cluster.serving.down("registry")
        end()

    def up() -> None:
        cluster.registry.start()
        cluster.serving.up("registry")

    registry = cluster.registry
    yield Fault("the registry is frozen", "registry", *_freezing(registry.process), (1.0, 8.0))
    yield Fault(
        "the registry is killed with its events", "registry", partial(down, registry.kill), up, (0.2, 5.0)
    )


def _proxy_faults(name: str, proxy: FaultProxy | None, kinds: tuple[ProxyFault, ...]) -> Iterator[Fault]:
    if proxy is None:
        return

    def turn(kind: ProxyFault) -> None:
        proxy.fault = kind

    says = {"unavailable": "answers 503", "slow": "is slow", "cut": "cuts its answers"}
    for kind in kinds:
        yield Fault(f"the {name} {says[kind]}", name, partial(turn, kind), partial(turn, "none"), (2.0, 8.0))


def _disk_faults(disk: Path | None) -> Iterator[Fault]:
    if disk is not None:
        filler = disk / "filler"
        yield Fault("the disk is full", "disk", lambda: fill(filler), filler.unlink, (2.0, 8.0))


def _clock_faults(clocks: list[Path]) -> Iterator[Fault]:
    for number, clock in enumerate(clocks, 1):
        for step in ("+1h", "-1h", "+400d", "+7", "-7"):

            def turn(offset: str, clock: Path = clock) -> None:
                # Replaced atomically: the process may read it at any moment.
                new = clock.with_suffix(".new")
                new.write_text(f"{offset}\n")
                new.replace(clock)

            yield Fault(
                f"the clock of brewer {number} steps by {step}",
                f"clock {number}",
                partial(turn, step),
                partial(turn, "+0"),
                (2.0, 10.0),
            )


def _restart(process: ServerProcess) -> None:
    process.kill()
    process.start()


def _ending(process: ServerProcess) -> tuple[Act, Act]:
    def start_again() -> None:
        process.stop()
        process.start()

    return lambda: process.send_signal(signal.SIGTERM), start_again


def _freezing(process: ServerProcess) -> tuple[Act, Act]:
    return (
        lambda: process.send_signal(signal.SIGSTOP),
        lambda: process.send_signal(signal.SIGCONT),
    )


def cut_connections(cluster: Cluster) -> None:
    """Make PgBouncer drop every client's and server's connection, then go on (pgbouncer(1), KILL, RESUME)."""
    console = psycopg2.connect(
        host=cluster.pgbouncer.host, port=cluster.pgbouncer.port, dbname="pgbouncer", user="postgres"
    )
    console.autocommit = True
    try:
        with console.cursor() as cursor:
            cursor.execute(f"KILL {DATABASE}")
            cursor.execute(f"RESUME {DATABASE}")
    finally:
        console.close()


def fill(filler: Path) -> None:
    """Write a file that takes all remaining space of its disk."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
