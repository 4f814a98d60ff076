"""`GET /healthz`: the database, the registry, the store, the trackers, and the last run of each job."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import bottle
from sqlalchemy import Engine

from core.clients import http_client
from core.config.config import Config
from core.digest import Digest
from core.errors import BadAnswer, MetainfoMissing, Refused
from core.health import LIMIT_SECONDS, HealthCheck, Part, Probe
from core.registry.client import RegistryClient
from core.torrents.store import MetainfoStore
from core.trackers import SECONDS as TRACKER_SECONDS
from core.trackers import Announcer, tracker_name
from core.units import span
from sql.history import JobRun, last_job_runs
from sql.postgresql import query_timeout
from sql.schema import probe_writable
from sql.tables import Tables
from sql.transaction import Clock, database_time, reading
from web.status_networks import StatusNetworks

# A layer that does not exist: missing metainfo is a valid answer.
_NO_LAYER = Digest("0" * 64)
_NO_TORRENT = bytes(20)

_LATE_SECONDS = 300
"""Tolerance in addition to twice the usual pause between two runs."""


class Dependencies:
    """The dependencies of the web app, as probes."""

    def __init__(
        self,
        config: Config,
        engine: Engine,
        tables: Tables,
        registry: RegistryClient,
        store: MetainfoStore,
        job_pauses: Mapping[str, float],
        clock: Clock = database_time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._engine = engine
        self._tables = tables
        self._registry = registry
        self._store = store
        self._announcer = Announcer(http_client(config, TRACKER_SECONDS, TRACKER_SECONDS))
        self._pauses = job_pauses
        self._clock = clock
        self._timer = timer
        self._started = timer()

    def probes(self) -> list[Probe]:
        """Return the probes. Only required ones lead to 503."""
        return [
            Probe("database", self._database, required=True),
            Probe("registry", self._ping_registry, required=True),
            Probe("store", self._read_store, required=True),
            *(
                Probe(f"tracker {tracker_name(url)}", partial(self._announce, url))
                for url in self._config.trackers
            ),
            Probe("jobs", self._jobs),
        ]

    def _database(self) -> str:
        with reading(self._engine) as connection, query_timeout(LIMIT_SECONDS):
            probe_writable(connection, self._tables)
        return f"{self._engine.dialect.name} answers"

    def _ping_registry(self) -> str:
        answer = self._registry.forward("GET", self._registry.urls.base, {}, seconds=LIMIT_SECONDS)
        # 401 is expected: this app has no credentials, callers bring theirs.
        if answer.status not in (200, 401):
            raise BadAnswer(str(answer.target), f"status {answer.status}")
        return f"{answer.target} answers {answer.status}"

    def _read_store(self) -> str:
        with suppress(MetainfoMissing):
            self._store.get(_NO_LAYER)
        return "answers"

    def _announce(self, tracker: str) -> str:
        try:
            # A peer that leaves is not added to any torrent.
            return self._announcer.announce(tracker, _NO_TORRENT, "stopped")
        except Refused as refused:
            # A tracker with a whitelist refuses unknown torrents: it works.
            return f"{tracker_name(tracker)} answers: {refused.why}"

    def _jobs(self) -> dict[str, Part]:
        with reading(self._engine) as connection, query_timeout(LIMIT_SECONDS):
            now = self._clock(connection)
            runs = {run.job: run for run in last_job_runs(connection, self._tables)}
        names = sorted({*runs, *self._pauses})
        return {f"job {name}": self._job(runs.get(name), self._pauses.get(name), now) for name in names}

    def _job(self, run: JobRun | None, pause: float | None, now: int) -> Part:
        """Return the state of a job that runs every `pause` seconds; None: it is not scheduled."""
        age = self._timer() - self._started if run is None else now - run.seen
        late = pause is not None and age > 2 * pause + _LATE_SECONDS
        if run is None:
            why = "no run is recorded"
            return Part(not late, f"{why}: start the scheduler, or cron" if late else why, now - age)
        what = run.outcome if run.reason is None else f"{run.outcome}: {run.reason}"
        if late:
            what = f"late, last seen {span(age)} ago: is the scheduler running, or cron? Last run: {what}"
        return Part(not late and run.outcome != "failed", what, run.started, run.seconds)


class HealthHandler:
    """Answers with the status; with its parts to callers from `application.status_networks`."""

    def __init__(self, check: HealthCheck, networks: StatusNetworks) -> None:
        self._check = check
        self._networks = networks

    def get(self) -> bottle.HTTPResponse:
        """Answer 200, or 503 if a required part is down."""
        health = self._check.health()
        shown = health.details() if self._networks.admits(bottle.request.environ) else health.summary()
        headers = {"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"}
        return bottle.HTTPResponse(json.dumps(shown) + "\n", health.http_status, headers)


def install(app: bottle.Bottle, handler: HealthHandler) -> None:
    """Add the route of this module."""
    app.route("/healthz", "GET", handler.get, name="healthz")
