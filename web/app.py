"""The Bottle app: its routes, and what a failure anywhere below them is answered with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import bottle

import web.events
import web.layers
import web.manifests
import web.torrents
from core.errors import (
    AccessDenied,
    DatabaseDown,
    InvalidName,
    ManifestInvalid,
    RemoteError,
    TimedOut,
)
from web.answers import error, failure
from web.parts import WebParts

log = logging.getLogger(__name__)

_INVALID = {"digest": "DIGEST_INVALID", "tag": "TAG_INVALID", "platform": "UNSUPPORTED"}


class Closing(Protocol):
    """A part of the app that ends with it."""

    def close(self) -> None: ...


class RegistryApp(bottle.Bottle):  # type: ignore[misc]  # bottle has no types
    """An app whose every error is the registry's JSON, so that no traceback reaches a client."""

    may_notify: Callable[[str | None], bool]
    """Whether notifications are taken with this Authorization header."""

    def __init__(self) -> None:
        super().__init__()
        self.to_close: list[Closing] = []

    def refuses_body(self, method: str, path: str, authorization: str | None) -> int | None:
        """The status that a long body is refused with before it is read (web/protocol_errors.py): nothing but
        notifications has one.
        """
        if (method, path) != ("POST", "/v0/event"):
            return 413
        return None if self.may_notify(authorization) else 401

    def close(self) -> None:
        """End the threads that the app started, and what else its parts hold."""
        for part in self.to_close:
            part.close()
        super().close()

    def default_error_handler(self, res: bottle.HTTPError) -> bottle.HTTPResponse:
        """Called by Bottle for what it answers itself, and for exceptions that nobody caught."""
        return failure(res)


def build_app(parts: WebParts) -> RegistryApp:
    """The whole app. `close()` on it ends the threads that it started."""
    app = RegistryApp()
    app.install(tell_failures)
    app.route("/ping", "GET", ping)
    app.to_close.extend(web.manifests.install(app, parts))
    app.may_notify = web.events.install(app, parts)
    web.torrents.install(app, parts)
    web.layers.install(app, parts)
    return app


def ping() -> bottle.HTTPResponse:
    """Alive: the process answers. Asks nothing of the registry or the database."""
    return bottle.HTTPResponse("pong", 200, {"Content-Type": "text/plain; charset=utf-8"})


def tell_failures(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A Bottle plugin: errors that the domain raises become the answers that stand for them."""

    def answered(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except AccessDenied as denied:
            return error(denied.status, denied.code, denied.message, denied.headers)
        except InvalidName as invalid:
            code = _INVALID.get(invalid.what, "NAME_INVALID")
            return error(400, code, f"invalid {invalid.what}", detail=str(invalid))
        except UnicodeDecodeError:
            # Bottle takes headers for UTF-8. Nobody is let in by a header that is none.
            return error(400, "HEADER_INVALID", "a header or the query is no text")
        except TimedOut as failed:
            _tell(failed)
            return error(504, "UNAVAILABLE", "the registry gave no answer in time")
        except (RemoteError, ManifestInvalid) as failed:
            _tell(failed)
            return error(502, "UNAVAILABLE", "the registry gave no answer that can be used")
        except DatabaseDown:
            return error(503, "UNAVAILABLE", "the database is out of reach", [("Retry-After", "5")])

    return answered


def _tell(failed: Exception) -> None:
    log.warning("registry gave no answer method=%s reason=%s", bottle.request.method, failed)
