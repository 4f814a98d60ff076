"""The verdict: after the faults the cluster settles, then everything is compared with what was pushed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import requests
import sqlalchemy as sa

from tests.chaos.cluster import BREW_DISCARD_TIMEOUT
from tests.chaos.load import Load, fetch_torrent, wrong_ids

STANDSTILL_SECONDS = 180.0
"""How long without a brewed layer counts as stuck: longer than the first delay of a retry."""
LOCK_SLACK_SECONDS = 120.0
"""How much longer than the time-out a lock may stand: on a busy machine several runs of release-locks fail."""
_POLL_SECONDS = 0.5

_ROWS = """
SELECT mapping.digest, rbtorrent_id, brew_lock, brewed, next_try, attempts, reason
FROM rbtorrent_mapping AS mapping LEFT JOIN rbtorrent_mapping_queue AS queue ON queue.digest = mapping.digest
"""


def judge(load: Load) -> None:
    """Wait until everything is brewed, then compare. Differences are recorded as violations."""
    cluster = load.cluster
    engine = sa.create_engine(cluster.database_url, poolclass=sa.NullPool)
    for row in _set_aside(_rows(engine)):
        load.violate(f"{row.digest} was set aside after {row.attempts} attempts: {row.reason}")
    retried = cluster.installation.last_line("queue", "retry", "--all")
    load.report(f"the next tries, which would be minutes or hours away, are due at once: {retried}")
    rows = _settle(load, engine)
    for what in _differences(load, rows):
        load.violate(what)
    _compare_answers(load)
    _read_logs(load)


def _settle(load: Load, engine: sa.Engine) -> list[Any]:
    """Wait until each pushed layer is brewed and nothing waits, or nothing changes. Return the rows of all layers."""
    load.report("settling")
    began = changed = time.monotonic()
    brewed = -1
    since: dict[tuple[str, int], float] = {}
    stuck: set[tuple[str, int]] = set()
    while True:
        rows, now = _rows(engine), time.monotonic()
        locks = {(row.digest, row.brew_lock) for row in rows if row.brew_lock is not None}
        since = {lock: since.get(lock, now) for lock in locks}
        for lock in locks - stuck:
            if now - since[lock] > BREW_DISCARD_TIMEOUT + LOCK_SLACK_SECONDS:
                stuck.add(lock)
                load.violate(
                    f"the lock {lock[1]} on {lock[0]} stands after its time-out, now {int(time.time())}"
                )
        if not locks and all(row.brewed for row in rows) and load.ids.keys() <= {row.digest for row in rows}:
            load.report(f"settled within {now - began:.0f} s")
            return rows
        if (count := sum(row.brewed is not None for row in rows)) != brewed:
            brewed, changed = count, now
        if now - changed > STANDSTILL_SECONDS:
            load.report("nothing more is brewed")
            return rows
        time.sleep(_POLL_SECONDS)


def _read_logs(load: Load) -> None:
    """Search the logs for tracebacks: expected failures are logged in a line."""
    cluster = load.cluster
    for process in (cluster.web, *cluster.brewers):
        number = process.log.read_text(errors="replace").count("Traceback (most recent call last)")
        if number:
            load.violate(f"{process.log} has {number} tracebacks")


def _rows(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.text(_ROWS)))


def _set_aside(rows: list[Any]) -> Iterator[Any]:
    return (row for row in rows if not row.brewed and row.next_try is None and row.reason)


def _differences(load: Load, rows: list[Any]) -> Iterator[str]:
    found = {row.digest: row for row in rows}
    for digest in load.ids.keys() - found.keys():
        yield f"{digest} was pushed and is unknown"
    for digest in found.keys() - load.ids.keys():
        yield f"{digest} is no layer that was pushed"
    for digest in load.ids.keys() & found.keys():
        row = found[digest]
        if not row.brewed:
            yield (
                f"{digest} is not brewed: lock {row.brew_lock}, next try {row.next_try}, "
                f"attempts {row.attempts}, reason {row.reason}, now {int(time.time())}"
            )
        elif row.rbtorrent_id != load.ids[digest]:
            yield f"{digest} has id {row.rbtorrent_id}, right is {load.ids[digest]}"


def _compare_answers(load: Load) -> None:
    """Request every manifest and every torrent once more: now all ids must be there."""
    scopes = {layer.digest: one.scope for one in load.tags for layer in one.image.layers}
    with requests.Session() as session:
        session.trust_env = False
        for tagged in load.tags:
            url = f"{load.cluster.url}/v2/{tagged.scope}/manifests/{tagged.tag}"
            answer = session.get(url, timeout=60)
            if answer.status_code != 200:
                load.violate(
                    f"manifest {tagged.scope}:{tagged.tag} is answered {answer.status_code} at the end"
                )
            elif wrong := wrong_ids(load, tagged, answer):
                load.violate(f"manifest {tagged.scope}:{tagged.tag} {wrong}")
            elif not all("rbtorrent_id" in layer for layer in answer.json()["layers"]):
                load.violate(f"manifest {tagged.scope}:{tagged.tag} lacks ids at the end")
        for digest, scope in scopes.items():
            torrent = fetch_torrent(load, session, scope, digest)
            if isinstance(torrent, str):
                load.violate(f"torrent of {digest} is not there at the end: {torrent}")
    load.counts["torrents compared"] = len(scopes)
