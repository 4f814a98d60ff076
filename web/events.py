"""`POST /v0/event`: a registry tells what was pushed, and the layers go to the queue."""

from __future__ import annotations

import hmac
import logging
import threading
from collections.abc import Callable

import bottle

from core.errors import DatabaseDown, EventsMalformed
from core.events import parse_events, plan
from web.answers import error
from web.granted_roles import GrantedRoles
from web.intake import Intake
from web.parts import WebParts
from web.request_body import read_body

log = logging.getLogger(__name__)

MAX_BODY = 40 * 1024 * 1024
"""Bytes. A registry takes manifests of 4 MiB and tells their references with all annotations, where Go writes
each `&`, `<` and `>` as six characters. What is refused for its length would be sent again for ever."""

MAX_AT_ONCE = 64
"""Notifications that one process works on at a time. Each takes a thread of the server, and with a database
that hangs takes it for seconds."""

_AGAIN = (("Retry-After", "5"),)
_ODD_SHOWN = 5


def install(app: bottle.Bottle, parts: WebParts) -> Callable[[str | None], bool]:
    """Add the call of this module to `app`, and say so if no registry can use it.

    Returns what judges an Authorization header: whether notifications are taken with it.
    """
    secret = parts.config.application.event_authorization
    if secret is None or not secret.get_secret_value():
        log.warning("events refused, application.event_authorization is not set")
    receiver = _Receiver(
        None if secret is None else secret.get_secret_value().encode(),
        GrantedRoles(parts.engine, parts.tables, parts.clock),
        Intake(parts.engine, parts.tables, parts.clock),
    )
    app.route("/v0/event", "POST", receiver.receive)
    return receiver.authorized


class _Receiver:
    def __init__(self, secret: bytes | None, roles: GrantedRoles, intake: Intake) -> None:
        self._secret = secret
        self._roles = roles
        self._intake = intake
        self._places = threading.BoundedSemaphore(MAX_AT_ONCE)

    def receive(self) -> bottle.HTTPResponse:
        """`OK` once everything that the events ask for is committed, or nothing is to be done for them.

        The Content-Type is not looked at: the JSON decides. A registry would repeat an event for ever that
        was refused for its label.
        """
        environ = bottle.request.environ
        if not self.authorized(environ.get("HTTP_AUTHORIZATION")):
            return error(401, "UNAUTHORIZED", "the Authorization header is not the configured one")
        if not self._places.acquire(blocking=False):
            log.warning("events not taken, too many at once")
            return error(503, "UNAVAILABLE", "too many notifications at once, send it again", _AGAIN)
        try:
            return self._take(read_body(environ, MAX_BODY))
        finally:
            self._places.release()

    def _take(self, body: bytes) -> bottle.HTTPResponse:
        try:
            notification = parse_events(body)
        except EventsMalformed as malformed:
            log.warning("events malformed bytes=%d reason=%s", len(body), malformed)
            return error(400, "MANIFEST_INVALID", "the body is no list of events", detail=str(malformed))
        for odd in notification.odd[:_ODD_SHOWN]:
            log.warning("event ignored reason=%s", odd)
        if len(notification.odd) > _ODD_SHOWN:
            log.warning("events ignored more=%d", len(notification.odd) - _ODD_SHOWN)
        try:
            wanted = plan(notification, self._roles.has)
            if wanted:
                self._intake.put(wanted)
        except DatabaseDown as down:
            log.error("events not taken, the registry will send them again reason=%s", down)
            return error(503, "UNAVAILABLE", "the queue cannot be written now, send it again", _AGAIN)
        return bottle.HTTPResponse("OK", 200, {"Content-Type": "text/plain; charset=utf-8"})

    def authorized(self, given: str | None) -> bool:
        """Whether the header is, to the letter, what is configured; nobody is, if nothing is."""
        if not self._secret:
            return False
        # WSGI hands headers over as Latin-1 (PEP 3333); back to bytes as they came.
        return hmac.compare_digest((given or "").encode("latin-1", "replace"), self._secret)
