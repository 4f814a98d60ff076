"""The web app in front of a registry, for tests: without a socket, or served at a free port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from core.access.chosen import choose_access
from tests.web_parts import app_of, web_parts
from tests.wsgi import Answer, call
from web.app import RegistryApp
from web.listen import listen
from web.parts import WebParts
from web.server import WebServer


@dataclass(frozen=True)
class Front:
    """An app, and what it is made of."""

    app: RegistryApp
    parts: WebParts

    def get(self, path: str, **headers: str) -> Answer:
        """What it answers to a GET; `_` in a header's name stands for `-`."""
        return self.ask("GET", path, **headers)

    def head(self, path: str, **headers: str) -> Answer:
        """What it answers to a HEAD."""
        return self.ask("HEAD", path, **headers)

    def ask(self, method: str, path: str, **headers: str) -> Answer:
        """What it answers to any method."""
        return call(self.app, method, path, headers={n.replace("_", "-"): v for n, v in headers.items()})


@contextmanager
def front_of(
    netloc: str,
    folder: Path,
    *,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    engine: sa.Engine | None = None,
    **more: Any,
) -> Iterator[Front]:
    """An app in front of the registry at `netloc`, judged by who the settings say; closed at the end.

    `settings` are sections of the configuration on top of that, `engine` takes the place of the one for
    an empty database, `more` is for `web_parts`.
    """
    registry = {"host": netloc, "proto": "http", **(settings or {}).get("docker_registry", {})}
    folder.mkdir(parents=True, exist_ok=True)
    parts = web_parts(folder, settings={**(settings or {}), "docker_registry": registry}, **more)
    if "access" not in more:
        parts = replace(parts, access=choose_access(parts.config, parts.registry, parts.clock))
    if engine is not None:
        parts.engine.dispose()
        parts = replace(parts, engine=engine)
    app = app_of(parts)
    try:
        yield Front(app, parts)
    finally:
        app.close()
        parts.engine.dispose()


@contextmanager
def served(front: Front, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve the app for the length of the block; `host:port`."""
    sockets = listen(host, port)
    taken = sockets[0].getsockname()[1]
    server = WebServer(front.app, sockets, refuses_body=front.app.refuses_body)
    try:
        yield f"{host}:{taken}"
    finally:
        server.stop(2)
