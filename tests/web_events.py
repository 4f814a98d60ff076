"""An app that accepts events, for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bottle

from sql.scopes import grant_role
from sql.transaction import Clock, transaction
from tests.web_parts import NOON, Parts, app_of, noon, rows, web_parts
from tests.wsgi import Answer, call

SECRET = "secretkey"
EVENTS_V1 = "application/vnd.docker.distribution.events.v1+json"


@dataclass(frozen=True)
class Receiving:
    """An app whose registry knows the secret."""

    app: bottle.Bottle
    parts: Parts

    def post(self, body: bytes, *, secret: str | None = SECRET, kind: str = EVENTS_V1, **more: Any) -> Answer:
        """Post a notification, and return the answer."""
        headers = {"Content-Type": kind} | ({"Authorization": secret} if secret is not None else {})
        return call(self.app, "POST", "/v0/event", headers=headers, body=body, **more)

    def grant(self, *patterns: str) -> None:
        """Grant scopes the role."""
        with transaction(self.parts.engine) as connection:
            for pattern in patterns:
                grant_role(connection, self.parts.tables, pattern, now=NOON)

    def queued(self) -> list[str]:
        """Return the digests that are queued."""
        return [digest for (digest,) in rows(self.parts, self.parts.tables.queue, "digest")]


@contextmanager
def receiving(
    folder: Path,
    *,
    secret: str | None = SECRET,
    database_url: str | None = None,
    clock: Callable[[], float] = noon,
    database_clock: Clock | None = None,
) -> Iterator[Receiving]:
    """Yield an app that runs during the block; `library/*` has the role."""
    settings = {"application": {"event_authorization": secret}}
    parts = web_parts(folder, database_url=database_url, settings=settings, clock=clock)
    app = app_of(parts, database_clock)
    running = Receiving(app, parts)
    running.grant("library/*")
    try:
        yield running
    finally:
        app.close()
        parts.engine.dispose()
