"""The web app in front of a registry, for tests: without a socket, or served on a free port."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bottle
import sqlalchemy as sa
from pydantic import SecretStr

from core.access.access import choose_access
from tests.constants import AMPLE_WAITS
from tests.servers.process import free_port, listening, running
from tests.web_parts import Parts, app_of, web_parts
from tests.wsgi import Answer, call


@dataclass(frozen=True)
class Front:
    """An app and its parts."""

    app: bottle.Bottle
    parts: Parts
    folder: Path

    def get(self, path: str, **headers: str) -> Answer:
        """Send a GET, and return the answer; `_` in a header's name stands for `-`."""
        return self.ask("GET", path, **headers)

    def head(self, path: str, **headers: str) -> Answer:
        """Send a HEAD, and return the answer."""
        return self.ask("HEAD", path, **headers)

    def ask(self, method: str, path: str, **headers: str) -> Answer:
        """Send a request, and return the answer."""
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
    """Yield an app in front of the registry at `netloc`, with the access of its settings; closed at the end.

    `settings` are sections of the configuration on top of that, `engine` replaces the one for
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
        yield Front(app, parts, folder)
    finally:
        app.close()
        parts.engine.dispose()


@contextmanager
def served(front: Front, constants: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Serve the app by the real server, in separate processes, for the length of the block. Yields `host:port`.

    The app is built from the front's configuration and database URL, as by the command `web`.
    `constants` (`module.NAME`) are set there, on top of AMPLE_WAITS. Its log is `served.log` in the front's folder.
    """
    folder, port = front.folder, free_port()
    file = folder / "served.pickle"
    application = front.parts.config.application.model_copy(update={"state_dir": folder})
    url = SecretStr(front.parts.engine.url.render_as_string(hide_password=False))
    config = front.parts.config.model_copy(
        update={
            "application": application,
            "db": front.parts.config.db.model_copy(update={"url": url}),
        }
    )
    file.write_bytes(pickle.dumps((config, {**AMPLE_WAITS, **(constants or {})})))
    argv = [sys.executable, "-m", "tests.served_front", str(file), str(port)]
    with running(argv, ready=listening(port), log=folder / "served.log", cwd=Path(__file__).parents[1]):
        yield f"127.0.0.1:{port}"
