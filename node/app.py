"""The mirror's Bottle app: the pull side of the distribution API for engines on this machine."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

import bottle
from prometheus_client import Counter

from core.errors import AccessDenied, DockerTorrentsError, InvalidName, RemoteError, Unavailable
from core.logs import choose_request_id, request_id
from node.answers import error, framework_error, unavailable
from node.blobs import Blobs
from node.proxy import RegistryProxy
from node.requests import header, kind_of, parse_any_digest, parse_path

log = logging.getLogger(__name__)

_READS = ["GET", "HEAD"]
_WRITES = ["POST", "PUT", "PATCH", "DELETE"]


def new_app() -> bottle.Bottle:
    """Return an app whose own errors are the registry's JSON."""
    app = bottle.Bottle()
    for status in (400, 404, 405, 413, 500):
        app.error(status)(framework_error)
    return app


class Pulls:
    """The calls below /v2/. `names` are the registry's names that engines may send in `?ns=`.

    At most `max_waiting` of them wait for the registry or a first byte at once; the server has more threads.
    """

    def __init__(self, proxy: RegistryProxy, blobs: Blobs, names: frozenset[str], max_waiting: int) -> None:
        self._proxy = proxy
        self._blobs = blobs
        self._names = frozenset(name.lower() for name in names)
        self._waiting = threading.BoundedSemaphore(max_waiting)

    def install(self, app: bottle.Bottle) -> None:
        """Add the calls to `app`."""
        for path in ("/v2", "/v2/", "/v2/<rest:re:.+>"):
            app.route(path, _READS, self._read)
            app.route(path, _WRITES, self._refuse_write)

    def _read(self, rest: str = "") -> bottle.HTTPResponse:
        environ: Mapping[str, Any] = bottle.request.environ
        ns = bottle.request.query.get("ns")
        if ns is not None and ns.lower() not in self._names:
            message = "this mirror serves another registry (mirror.registry_names)"
            return error(404, "NAME_UNKNOWN", message, detail={"ns": ns})
        # Bottle's own decoding drops bytes that are not UTF-8, which could result in another name.
        path = str(environ["bottle.raw_path"]).removeprefix("/v2").removeprefix("/")
        if not self._waiting.acquire(blocking=False):
            return unavailable("too many requests wait for the registry", 1)
        try:
            return self._answer(environ, path)
        finally:
            self._waiting.release()

    def _answer(self, environ: Mapping[str, Any], path: str) -> bottle.HTTPResponse:
        if not path:
            return self._proxy.base(environ)
        resource = parse_path(path)
        if resource is None:
            return error(404, "NOT_FOUND", "the mirror serves only manifests, blobs, tags and referrers")
        if resource.kind == "blobs":
            return self._blobs.answer(environ, resource.scope, parse_any_digest(resource.name))
        return self._proxy.named(environ, resource)

    def _refuse_write(self, rest: str = "") -> bottle.HTTPResponse:
        return error(
            405, "UNSUPPORTED", "the mirror is read-only: push to the registry", [("Allow", "GET, HEAD")]
        )


class CountAnswers:
    """A Bottle plugin: counts answers to engines by kind and status."""

    def __init__(self, answers: Counter) -> None:
        self._answers = answers

    def __call__(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            answer = callback(*args, **kwargs)
            path = bottle.request.path
            if path.startswith("/v2"):
                self._answers.labels(kind_of(path), getattr(answer, "status_code", 200)).inc()
            return answer

        return counted


def identify(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Give, as a Bottle plugin, each request an id, unless it has one, for log lines and the registry."""

    def identified(*args: Any, **kwargs: Any) -> Any:
        with request_id(choose_request_id(header(bottle.request.environ, "X-Request-Id"))):
            return callback(*args, **kwargs)

    return identified


class AnswerFailures:
    """A Bottle plugin: turns domain errors into answers that make an engine use the registry.

    `registry_is_down` returns whether an outage of the registry is logged already.
    """

    def __init__(self, registry_is_down: Callable[[], bool]) -> None:
        self._registry_is_down = registry_is_down

    def __call__(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        def answered(*args: Any, **kwargs: Any) -> Any:
            try:
                return callback(*args, **kwargs)
            except bottle.HTTPResponse:
                raise
            except AccessDenied as denied:
                return error(denied.status, denied.code, denied.message, denied.headers)
            except InvalidName as invalid:
                # 404 sends an engine to the registry, which may know more kinds of names and digests.
                return error(404, "NAME_UNKNOWN", f"the mirror does not serve this {invalid.what}")
            except UnicodeDecodeError:
                return error(400, "HEADER_INVALID", "a header or the query is not text")
            except DockerTorrentsError as failed:
                return self._unavailable(failed)
            except Exception:
                log.exception("request failed, internal error path=%s", bottle.request.path)
                return error(500, "UNKNOWN", "internal error")

        return answered

    def _unavailable(self, failed: DockerTorrentsError) -> bottle.HTTPResponse:
        remote = isinstance(failed, RemoteError)
        level = logging.DEBUG if remote and self._registry_is_down() else logging.WARNING
        log.log(level, "request failed path=%s reason=%s", bottle.request.path, failed)
        retry_after = failed.retry_after if isinstance(failed, Unavailable) else None
        message = "the registry does not answer" if remote else "the mirror cannot do this: see its log"
        return unavailable(message, retry_after)
