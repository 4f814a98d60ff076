"""Calls for operators and Prometheus: alive, health, metrics, status, and changes of the cache.

Status and changes are for this machine only. Changes use PUT and DELETE, which no web page of another origin
can send.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from ipaddress import ip_address
from typing import Any

import bottle
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from core.digest import Digest
from core.errors import RemoteError
from node.answers import error
from node.cache import Cache
from node.downloads import Downloads, DownloadStatus
from node.metrics import Metrics
from node.upstream import Upstream


class Operations:
    """The calls beside /v2/. `registry` is the registry's name for operators."""

    def __init__(
        self, registry: str, upstream: Upstream, cache: Cache, downloads: Downloads, metrics: Metrics
    ) -> None:
        self._registry = registry
        self._upstream = upstream
        self._cache = cache
        self._downloads = downloads
        self._metrics = metrics

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
        """200 if the registry answers; failed downloads are shown, and are no reason to restart."""
        try:
            answer = self._upstream.fetch("GET", self._upstream.urls.base, None)
            registry = "ok" if answer.status < 500 else f"status {answer.status}"
        except RemoteError as failed:
            registry = str(failed)
        healthy = registry == "ok"
        failed_layers = sum(one.state == "failed" for one in self._downloads.status())
        body = {
            "status": "ok" if healthy else "degraded",
            "registry": registry,
            "failed_downloads": failed_layers,
        }
        return bottle.HTTPResponse(body, 200 if healthy else 503)

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
    """Alive: the process answers."""
    return bottle.HTTPResponse("pong", 200, {"Content-Type": "text/plain; charset=utf-8"})


def _described(status: DownloadStatus) -> dict[str, Any]:
    return {**asdict(status), "digest": str(status.digest)}


def _local(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A call that is answered to this machine only."""

    def answered(**path: str) -> Any:
        if not _is_loopback(bottle.request.environ.get("REMOTE_ADDR", "")):
            return error(403, "DENIED", "only this machine may ask")
        return callback(**path)

    return answered


def _is_loopback(address: str) -> bool:
    try:
        found = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback
