"""`POST /v0/event`: a registry's notifications; pushed layers go to the queue."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path

import bottle

from core.errors import DatabaseDown, EventsMalformed
from core.event_plan import plan
from core.events import parse_events
from core.logs import OutageLog
from core.metrics import EVENTS
from core.wake import wake
from web.errors import error, unavailable
from web.event_writer import EventWriter
from web.limits import NOTIFICATIONS, ConcurrencyLimit
from web.request import read_body
from web.role_cache import RoleCache

log = logging.getLogger(__name__)

MAX_BODY = 40 * 1024 * 1024
"""Bytes. A registry takes manifests of 4 MiB and sends their references with all annotations, where Go writes
each `&`, `<` and `>` as six characters. An event refused for its length would be repeated forever."""


class EventReceiver:
    """Answers `OK` once the plan for the events is committed, and wakes the scheduler."""

    def __init__(self, secret: bytes | None, roles: RoleCache, writer: EventWriter, state_dir: Path) -> None:
        self._secret = secret
        self._state_dir = state_dir
        self._roles = roles
        self._writer = writer
        self._concurrency = ConcurrencyLimit("notifications", NOTIFICATIONS)
        self._outage = OutageLog(log, "queueing of notifications")
        self._refusals = OutageLog(log, "authorization of notifications")

    def receive(self) -> bottle.HTTPResponse:
        """Handle a notification.

        The Content-Type is ignored: a registry would repeat an event forever that was refused for it.
        """
        environ = bottle.request.environ
        if not self._authorized(environ.get("HTTP_AUTHORIZATION")):
            EVENTS.count("unauthorized")
            why = "the header Authorization differs from application.event_authorization"
            self._refusals.failed(f"{why}, the registry repeats them")
            return error(401, "UNAUTHORIZED", why)
        self._refusals.succeeded()
        with self._concurrency.slot():
            return self._handle(read_body(environ, MAX_BODY))

    def _handle(self, body: bytes) -> bottle.HTTPResponse:
        try:
            notification = parse_events(body)
        except EventsMalformed as malformed:
            EVENTS.count("malformed")
            log.warning("events malformed bytes=%d reason=%s", len(body), malformed)
            return error(400, "MANIFEST_INVALID", "the body is not a list of events", detail=str(malformed))
        for reason in notification.skipped:
            log.warning("event ignored reason=%s", reason)
        if notification.more_skipped:
            log.warning("further events ignored number=%d", notification.more_skipped)
        try:
            planned = plan(notification, self._roles.has)
            if planned:
                self._writer.write(planned)
                wake(self._state_dir)
        except DatabaseDown as down:
            EVENTS.count("unavailable")
            self._outage.failed(f"the registry will send them again: {down}")
            return unavailable("the queue cannot be written now, try again later")
        self._outage.succeeded()
        EVENTS.count("queued" if planned else "ignored")
        return bottle.HTTPResponse("OK", 200, {"Content-Type": "text/plain; charset=utf-8"})

    def _authorized(self, header: str | None) -> bool:
        """Return whether the header equals the configured one; False if none is configured."""
        if not self._secret:
            return False
        # WSGI decodes headers as Latin-1 (PEP 3333): encode them back to the bytes that were sent.
        return hmac.compare_digest((header or "").encode("latin-1", "replace"), self._secret)


def install(app: bottle.Bottle, events: EventReceiver) -> None:
    """Add the route of this module."""
    app.route("/v0/event", "POST", events.receive, name="event")
