"""The web app in front of a registry, for tests: without a socket, or served at a free port."""

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
from tests.servers.process import free_port, listening, running
from tests.web_parts import Parts, app_of, web_parts
from tests.wsgi import Answer, call


@dataclass(frozen=True)
class Front:
    """An app, and what it is made of."""

    app: bottle.Bottle
    parts: Parts
    folder: Path

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
        yield Front(app, parts, folder)
    finally:
        app.close()
        parts.engine.dispose()


@contextmanager
def served(front: Front, constants: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Serve such an app by the real server, in processes of its own, for the length of the block; `host:port`.

    It is put together from the front's configuration and the URL of its database as the command `web` does it.
    `constants` (`module.NAME`) have these values there. Its log is `served.log` in the front's folder.
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
    file.write_bytes(pickle.dumps((config, dict(constants or {}))))
    argv = [sys.executable, "-m", "tests.served_front", str(file), str(port)]
    with running(argv, ready=listening(port), log=folder / "served.log", cwd=Path(__file__).parents[1]):
        yield f"127.0.0.1:{port}"
