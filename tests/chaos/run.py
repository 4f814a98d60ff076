"""One run: load and faults for a while, then the verdict. The timeline goes to standard output."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.cluster import START_SECONDS, Cluster, Storage, start_cluster
from tests.chaos.faults import Planned, faults_of, plan
from tests.chaos.load import Load
from tests.chaos.verdict import judge
from tests.servers.waiting import comes_true


def run_chaos(folder: Path, *, seconds: float, seed: int, storage: Storage) -> list[str]:
    """Run load and faults for `seconds`. Return the violations. Call it from the main thread.

    Raises ServerMissing, ServerFailed.
    """
    began = time.monotonic()

    def report(what: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {what}", flush=True)

    print(f"chaos: seed {seed}, {seconds:g} s, metainfo in {storage}", flush=True)
    with start_cluster(folder, storage) as cluster:
        chance = random.Random(seed)
        planned = plan(faults_of(cluster, chance), seconds, chance)
        if not cluster.clocks:
            report("left out: clocks that step, as Debian's package faketime is missing")
        load = Load(cluster, seed, report)
        load.start()
        try:
            if not comes_true(load.is_under_way, START_SECONDS):
                load.violate(f"the load did nothing within {START_SECONDS:g} s: {dict(load.counts)}")
            _carry_out(planned, cluster, load, report)
            report("no more faults, the load ends")
            load.finish()
            judge(load)
        except BaseException:
            load.interrupt()
            raise
        _check_alive(cluster, load)
        disturbed = sum(proxy.failed for proxy in (cluster.source, cluster.store) if proxy is not None)
        counts = {
            "faults": len(planned),
            "kinds of faults": len({one.fault.kind for one in planned}),
            "requests of brewers that a proxy disturbed": disturbed,
        }
        print(_table({**counts, **load.counts, "layers pushed": len(load.ids)}), flush=True)
        return load.violations


def _carry_out(planned: list[Planned], cluster: Cluster, load: Load, report: Callable[[str], None]) -> None:
    """Begin and end the faults at their times."""
    steps = [(one.begins, 0, one) for one in planned] + [(one.ends, 1, one) for one in planned]
    began = time.monotonic()
    for at, ends, one in sorted(steps, key=lambda step: step[:2]):
        late = time.monotonic() - began - at
        if late > 0:
            # All later ones are delayed too: otherwise a fault might have no time to last.
            began += late
        else:
            time.sleep(-late)
        if not ends:
            _check_alive(cluster, load, one.fault.target)
            report(one.fault.name)
            one.fault.begin()
        else:
            one.fault.end()
            if one.ends > one.begins:
                report(f"    over: {one.fault.name}")


def _check_alive(cluster: Cluster, load: Load, target: str | None = None) -> None:
    """Record a process that exited unexpectedly, and start it again."""
    named = {"web": cluster.web, **{f"brewer {n}": one for n, one in enumerate(cluster.brewers, 1)}}
    for name, process in named.items():
        if target in (None, name) and not process.alive:
            load.violate(f"{name} ended by itself with status {process.exit_status()}: {process.log}")
            process.stop()
            process.start()


def _table(counts: dict[str, int]) -> str:
    return "\n".join(f"{number:8d}  {what}" for what, number in counts.items())
