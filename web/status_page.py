"""`GET /`: the status page. Plain HTML without scripts, from templates/ and the database."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path

import bottle
from cachetools import TTLCache
from sqlalchemy import Engine

from core.config.config import Config
from core.errors import DatabaseBusy, DatabaseDown
from core.health import HealthCheck
from core.registry.client import RegistryClient
from sql.failures import failure_kind, list_failure_reasons, list_recent_failures
from sql.history import last_job_runs, samples
from sql.postgresql import query_timeout
from sql.queue_counts import count_queue
from sql.schema import existing_tables
from sql.scopes import list_busy_repositories
from sql.tables import Tables
from sql.transaction import Clock, reading
from web import status_view as view
from web.image_search import Found, ImageSearch
from web.limits import ConcurrencyLimit, DatabasePause
from web.status_charts import RANGES, axis_of, charts
from web.status_networks import StatusNetworks

FRESH_SECONDS = 5.0
"""How long the overview and the result of a search are cached."""

WAIT_SECONDS = 10.0
"""How long a request waits while another one reads the database."""

QUERY_SECONDS = 5.0
"""The time-out on PostgreSQL for all queries together."""

_DEFAULT_HOURS = 6
_REFRESH_SECONDS = 30
_LATEST, _BUSIEST, _MAX_REASONS = 15, 10, 12
_MAX_SEARCHES = 64
_MAX_LAYERS, _MAX_SCOPES = 200, 30

_FOLDER = Path(__file__).parent / "templates"
_CSS = (_FOLDER / "status.css").read_text("utf-8")
_CSS_HASH = b64encode(hashlib.sha256(_CSS.encode()).digest()).decode()
_TEMPLATE = bottle.SimpleTemplate(name="status.html", lookup=[str(_FOLDER)])

_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_CSS_HASH}'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

log = logging.getLogger(__name__)


class StatusPage:
    """Answers `/`. Thread-safe.

    `registry` has the service's credentials. `timer` returns monotonic seconds.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        tables: Tables,
        registry: RegistryClient,
        check: HealthCheck,
        clock: Clock,
        timer: Callable[[], float],
    ) -> None:
        self._host = config.docker_registry.host
        self._engine = engine
        self._tables = tables
        self._check = check
        self._clock = clock
        self._search = ImageSearch(config, engine, tables, registry, clock)
        self._pause = DatabasePause(timer)
        self._reading = threading.Lock()
        self._overview: TTLCache[str, view.Overview] = TTLCache(1, FRESH_SECONDS, timer)
        self._searches: TTLCache[str, Found] = TTLCache(_MAX_SEARCHES, FRESH_SECONDS, timer)
        self._searching = threading.Lock()

    def show(self) -> bottle.HTTPResponse:
        """Return the page: the result for `q`, or else the overview of the last `hours`."""
        query = bottle.request.query
        text = (query.getunicode("q") or "").strip()
        hours = _hours(query.get("hours", ""))
        refresh = "refresh" in query
        try:
            if text:
                return self._show_search(text)
            return self._show_overview(hours, refresh=refresh)
        except DatabaseDown as down:
            log.warning("status page without database reason=%s", down)
            health = view.database_down(str(down), self._check.health())
            return self._render(503, health=health, text=text)

    def _show_overview(self, hours: int, *, refresh: bool) -> bottle.HTTPResponse:
        overview = self._read_overview()
        return self._render(
            200,
            now=overview.now,
            health=view.health_line(self._check.health(), overview),
            page="overview",
            hours=hours,
            ranges=RANGES,
            refresh=_REFRESH_SECONDS if refresh else None,
            tiles=view.tiles(overview),
            charts=charts(overview.samples, hours, overview.now),
            reasons=overview.reasons[:_MAX_REASONS],
            more_reasons=len(overview.reasons[_MAX_REASONS:]),
            failures=overview.failures,
            repositories=overview.repositories,
            newest=view.NEWEST_NOTE,
            jobs=overview.runs,
        )

    def _show_search(self, text: str) -> bottle.HTTPResponse:
        with self._searching:
            found = self._searches.get(text)
        if found is None:
            found = self._search.find(text)
            with self._searching:
                self._searches[text] = found
        return self._render(
            found.status,
            page="search",
            text=found.text,
            found=found,
            max_layers=_MAX_LAYERS,
            max_scopes=_MAX_SCOPES,
        )

    def _read_overview(self) -> view.Overview:
        """Return an overview, at most FRESH_SECONDS old, read by one thread. Raises DatabaseDown."""
        if not self._reading.acquire(timeout=WAIT_SECONDS):
            raise DatabaseBusy("reading the status takes too long")
        try:
            if (overview := self._overview.get("")) is not None:
                return overview
            if not self._pause.may_query():
                raise DatabaseDown("it did not answer a moment ago")
            overview = self._overview[""] = self._query()
            return overview
        finally:
            self._reading.release()

    def _query(self) -> view.Overview:
        try:
            with reading(self._engine) as connection, query_timeout(QUERY_SECONDS):
                # Without permission to create tables, only those of an older version exist.
                tables = existing_tables(connection, self._tables)
                now = self._clock(connection)
                overview = view.Overview(
                    now=now,
                    counts=count_queue(connection, tables, now=now),
                    samples=samples(connection, tables, since=axis_of(max(RANGES), now).start),
                    runs=last_job_runs(connection, tables),
                    reasons=list_failure_reasons(connection, tables, now=now),
                    failures=list_recent_failures(connection, tables, limit=_LATEST),
                    repositories=list_busy_repositories(connection, tables, limit=_BUSIEST),
                )
        except DatabaseDown:
            self._pause.failed()
            raise
        self._pause.answered()
        return overview

    def _render(self, status: int, **values: object) -> bottle.HTTPResponse:
        defaults = {
            "css": _CSS,
            "host": self._host,
            "now": int(time.time()),
            "text": "",
            "page": "",
            "health": None,
            "refresh": None,
            "view": view,
            "failure_kind": failure_kind,
        }
        body = _TEMPLATE.render(**{**defaults, **values}).encode()
        headers = {**_HEADERS, "Retry-After": "5"} if status == 503 else _HEADERS
        return bottle.HTTPResponse(body, status, headers)


def _hours(text: str) -> int:
    return int(text) if text in map(str, RANGES) else _DEFAULT_HOURS


def install(app: bottle.Bottle, page: StatusPage, networks: StatusNetworks) -> None:
    """Add the routes of this module."""
    concurrency = ConcurrencyLimit("status pages", 16, waiting=16, seconds=WAIT_SECONDS)
    # The first plugin is the outermost: callers from other networks do not wait for a slot.
    app.route("/", "GET", page.show, name="status_page", apply=[networks.limit, concurrency.limit])
