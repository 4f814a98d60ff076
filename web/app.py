"""The web app: its parts, its routes, and the handling common to all requests."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import bottle
from sqlalchemy import Engine

import web.events
import web.health
import web.layers
import web.manifests
import web.metrics
import web.status_page
import web.swarm
import web.torrents
from core.access.access import Access
from core.blobs.source import BlobSource
from core.config.config import Config
from core.errors import NO_ANSWER, AccessDenied
from core.health import HealthCheck
from core.logs import choose_request_id, request_id
from core.metrics import Readings
from core.queue_gauges import QueueGauges, queue_readings
from core.registry.client import RegistryClient
from core.torrents.store import MetainfoStore
from sql.queue_counts import read_queue
from sql.tables import Tables
from sql.transaction import Clock, database_time, reading
from web.errors import error, from_bottle, from_exception
from web.event_writer import EventWriter
from web.events import EventReceiver
from web.health import Dependencies, HealthHandler
from web.id_lookup import IdLookup
from web.limits import REGISTRY_REQUESTS, REGISTRY_WAITING, ConcurrencyLimit
from web.manifests import ManifestHandler
from web.metrics import CountRequests, count_without_route
from web.missing_torrents import MissingTorrents
from web.on_demand import OnDemandQueue
from web.role_cache import RoleCache
from web.status_networks import StatusNetworks
from web.status_page import StatusPage
from web.swarm import SwarmHandler
from web.swarm_coordinator import Coordinator, LocalCoordinator
from web.torrents import TorrentHandler

log = logging.getLogger(__name__)

REGISTRY_SECONDS = 10.0
"""How long a request waits for a slot at the registry."""


class Closing(Protocol):
    """A part that ends with the app."""

    def close(self) -> None: ...


class RequestHandling:
    """A Bottle plugin around every handler: exceptions of the domain become answers. Closes the app's parts.

    https://bottlepy.org/docs/stable/plugins/dev.html
    """

    name = "request_handling"
    api = 2

    def __init__(self, *parts: Closing) -> None:
        self._parts = parts

    def apply(self, callback: Callable[..., Any], route: bottle.Route) -> Callable[..., Any]:
        """Wrap a route; Bottle calls this once per route."""

        def identified(*args: Any, **kwargs: Any) -> Any:
            environ = bottle.request.environ
            # The registry gets it with the other headers (web/forwarding.py).
            chosen = environ["HTTP_X_REQUEST_ID"] = choose_request_id(environ.get("HTTP_X_REQUEST_ID"))
            with request_id(chosen):
                return handle(*args, **kwargs)

        def handle(*args: Any, **kwargs: Any) -> Any:
            try:
                return callback(*args, **kwargs)
            except bottle.HTTPResponse:
                raise
            except AccessDenied as denied:
                return error(denied.status, denied.code, denied.message, denied.headers)
            except Exception as raised:
                answer = from_exception(raised)
                if answer is None:
                    log.exception("request failed, internal error method=%s", bottle.request.method)
                    return error(500, "UNKNOWN", "internal error")
                # The registry's client has logged it.
                if answer.status_code >= 500 and not isinstance(raised, NO_ANSWER):
                    log.warning("request failed method=%s reason=%s", bottle.request.method, raised)
                return answer

        return identified

    def close(self) -> None:
        """Close everything; `app.close()` calls this."""
        for part in self._parts:
            part.close()


def build_app(
    config: Config,
    *,
    engine: Engine,
    tables: Tables,
    registry: RegistryClient,
    own_registry: RegistryClient,
    access: Access,
    source: BlobSource,
    store: MetainfoStore,
    capability_secret: bytes,
    clock: Callable[[], float] = time.time,
    database_clock: Clock = database_time,
    timer: Callable[[], float] = time.monotonic,
    coordinator: Coordinator | None = None,
    job_pauses: Mapping[str, float] | None = None,
) -> bottle.Bottle:
    """Return the app. `close()` on it ends the threads that it started.

    `registry` has no credentials: callers bring their own. `own_registry` has the service's, for operators'
    searches. `capability_secret` signs the URLs of web seeds. `clock` returns Unix seconds, `timer` monotonic
    seconds, `database_clock` the time for writes. `coordinator` is shared by several workers. `job_pauses`
    are the seconds between two runs of each scheduled job.
    """
    ids = IdLookup(engine, tables, timer)
    on_demand = OnDemandQueue(engine, tables, database_clock, timer)
    app = _new_app(ids, on_demand)
    registry_concurrency = ConcurrencyLimit(
        "requests to the registry",
        REGISTRY_REQUESTS,
        waiting=REGISTRY_WAITING,
        seconds=REGISTRY_SECONDS,
        resource="registry",
    )
    manifests = ManifestHandler(config.docker_registry, registry, access, ids, on_demand)
    web.manifests.install(app, manifests, registry_concurrency)
    secret = config.application.event_authorization
    events = EventReceiver(
        secret.get_secret_value().encode() if secret else None,
        RoleCache(engine, tables, timer),
        EventWriter(engine, tables, database_clock),
        config.application.state_dir,
    )
    web.events.install(app, events)
    missing = MissingTorrents(engine, tables, store, database_clock, timer)
    torrents = TorrentHandler(config, access, store, missing, capability_secret, clock)
    web.torrents.install(app, torrents, registry_concurrency)
    web.layers.install(app, source, capability_secret, clock)
    dependencies = Dependencies(
        config,
        engine,
        tables,
        registry,
        store,
        job_pauses or {},
        database_clock,
        timer,
    )
    check = HealthCheck(dependencies.probes(), clock, timer)
    networks = StatusNetworks(config.application)
    web.health.install(app, HealthHandler(check, networks))
    coordinator = coordinator or LocalCoordinator(timer)
    web.swarm.install(app, SwarmHandler(config, coordinator, capability_secret, clock))
    page = StatusPage(config, engine, tables, own_registry, check, database_clock, timer)
    web.status_page.install(app, page, networks)

    def read() -> Readings:
        with reading(engine) as connection:
            return queue_readings(*read_queue(connection, tables, now=database_clock(connection)))

    web.metrics.install(app, networks, QueueGauges(read, timer).readings)
    return app


def build_swarm_app(config: Config, *, capability_secret: bytes) -> bottle.Bottle:
    """Return the app of the command `swarm`: only swarm calls, for several web workers or replicas."""
    app = _new_app()
    web.swarm.install(app, SwarmHandler(config, LocalCoordinator(), capability_secret, time.time))
    web.metrics.install(app, StatusNetworks(config.application))
    return app


def _new_app(*parts: Closing) -> bottle.Bottle:
    app = bottle.Bottle()
    app.install(CountRequests())
    app.install(RequestHandling(*parts))
    for status in (400, 404, 405, 413, 500):
        app.error(status)(count_without_route(from_bottle))
    app.route("/ping", "GET", ping, name="ping")
    return app


def ping() -> bottle.HTTPResponse:
    """Answer that the process is alive, without the registry or the database."""
    return bottle.HTTPResponse("pong", 200, {"Content-Type": "text/plain; charset=utf-8"})
