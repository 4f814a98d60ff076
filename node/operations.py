"""Calls for operators and Prometheus: ping, health, metrics, status, and changes of the cache.

Status and changes are for this machine only. Changes use PUT and DELETE, which web pages of other origins
cannot send.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import bottle
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from core.digest import Digest
from core.errors import BadAnswer
from core.health import HealthCheck, Part, Probe
from core.networks import is_loopback
from node.answers import error
from node.cache import Cache
from node.downloads import Downloads
from node.metrics import Metrics
from node.status import DownloadStatus
from node.upstream import Upstream


class Operations:
    """The calls outside /v2/. `registry` is the registry's name for operators."""

    def __init__(
        self, registry: str, upstream: Upstream, cache: Cache, downloads: Downloads, metrics: Metrics
    ) -> None:
        self._registry = registry
        self._upstream = upstream
        self._cache = cache
        self._downloads = downloads
        self._metrics = metrics
        self._check = HealthCheck(
            [
                Probe("registry", self._ping_registry, required=True),
                # No reasons to restart: the layers come from the registry.
                Probe("cache", self._check_cache),
                Probe("downloads", self._check_downloads),
            ]
        )

    def install(self, app: bottle.Bottle) -> None:
        """Add the calls to `app`."""
        app.route("/ping", "GET", ping)
        app.route("/healthz", "GET", self._health)
        app.route("/metrics", "GET", self._show_metrics)
        app.route("/v0/mirror/status", "GET", _local(self._status))
        app.route("/v0/mirror/layers/<digest>", "DELETE", _local(self._drop))
        app.route("/v0/mirror/pins/<digest>", "PUT", _local(self._pin))
        app.route("/v0/mirror/pins/<digest>", "DELETE", _local(self._unpin))

    def _health(self) -> bottle.HTTPResponse:
        """Answer 503 if the registry does not. Only this machine gets details, as in web/health.py."""
        health = self._check.health()
        local = is_loopback(bottle.request.environ.get("REMOTE_ADDR", ""))
        return bottle.HTTPResponse(health.details() if local else health.summary(), health.http_status)

    def _ping_registry(self) -> str:
        answer = self._upstream.fetch("GET", self._upstream.urls.base, None)
        if answer.status >= 500:
            raise BadAnswer(str(answer.target), f"status {answer.status}")
        return f"{answer.target} answers {answer.status}"

    def _check_cache(self) -> str:
        self._cache.check()
        return f"{self._cache.directory} can be written"

    def _check_downloads(self) -> dict[str, Part]:
        downloads = self._downloads.status()
        failed = sum(one.state == "failed" for one in downloads)
        return {"downloads": Part(not failed, f"{len(downloads)}, {failed} of them failed", time.time())}

    def _show_metrics(self) -> bottle.HTTPResponse:
        return bottle.HTTPResponse(
            generate_latest(self._metrics.registry), 200, {"Content-Type": CONTENT_TYPE_LATEST}
        )

    def _status(self) -> dict[str, Any]:
        totals, entries = self._downloads.totals(), self._cache.entries()
        cached = [{**asdict(entry), "digest": str(entry.digest)} for entry in entries]
        return {
            "registry": self._registry,
            "origins": totals.origins,
            "uploaded": totals.uploaded,
            "fallbacks": totals.fallbacks,
            "cache": {"bytes": sum(entry.size for entry in entries), "layers": cached},
            "downloads": [_described(one) for one in self._downloads.status()],
        }

    def _drop(self, digest: str) -> bottle.HTTPResponse:
        if self._downloads.drop(Digest.parse(digest)):
            return bottle.HTTPResponse("", 204)
        return error(404, "BLOB_UNKNOWN", "the layer is not in the cache, or in use")

    def _pin(self, digest: str) -> bottle.HTTPResponse:
        self._cache.pin(Digest.parse(digest))
        return bottle.HTTPResponse("", 204)

    def _unpin(self, digest: str) -> bottle.HTTPResponse:
        self._cache.unpin(Digest.parse(digest))
        return bottle.HTTPResponse("", 204)


def ping() -> bottle.HTTPResponse:
    """Answer that the process is alive."""
    return bottle.HTTPResponse("pong", 200, {"Content-Type": "text/plain; charset=utf-8"})


def _described(status: DownloadStatus) -> dict[str, Any]:
    return {**asdict(status), "digest": str(status.digest)}


def _local(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Return the call, restricted to this machine."""

    def answered(**path: str) -> Any:
        if not is_loopback(bottle.request.environ.get("REMOTE_ADDR", "")):
            return error(403, "DENIED", "only for this machine")
        return callback(**path)

    return answered
