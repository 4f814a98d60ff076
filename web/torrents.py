"""`GET /v0/torrents/<scope>/<digest>`: a layer's .torrent, for callers who may pull that layer."""

from __future__ import annotations

import logging
from collections.abc import Callable

import bottle

from core.access.access import Access
from core.config.config import Config
from core.digest import Digest
from core.errors import MetainfoMissing, StoreFailed
from core.logs import OutageLog
from core.names import parse_scope
from core.torrents.metainfo import with_sources
from core.torrents.store import MetainfoStore
from core.torrents.web_seeds import web_seed_urls
from web.errors import error, unavailable
from web.limits import ConcurrencyLimit
from web.missing_torrents import MissingTorrents, Why
from web.request import path_after, request_headers

log = logging.getLogger(__name__)

_BREWING = (("Retry-After", "30"),)

_MISSING: dict[Why, tuple[int, str, str, tuple[tuple[str, str], ...]]] = {
    "not brewed": (404, "TORRENT_UNKNOWN", "the layer is not brewed yet", _BREWING),
    "not known": (
        404,
        "TORRENT_UNKNOWN",
        "no manifest that names this layer was requested, pushed or scanned: request one by tag",
        _BREWING,
    ),
    "brewed again": (404, "TORRENT_UNKNOWN", "the torrent was lost and is being brewed again", _BREWING),
    "made elsewhere": (404, "TORRENT_UNKNOWN", "the torrent is served by the older service that made it", ()),
    "not stored": (503, "UNAVAILABLE", "the layer is brewed, but its torrent is not in the store", _BREWING),
}
"""Status, code, message and headers of the answer to a missing torrent."""


class TorrentHandler:
    """Serves the metainfo in `store`, with trackers and web seeds added."""

    def __init__(
        self,
        config: Config,
        access: Access,
        store: MetainfoStore,
        missing: MissingTorrents,
        secret: bytes,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._access = access
        self._store = store
        self._missing = missing
        self._secret = secret
        self._clock = clock
        self._outage = OutageLog(log, "metainfo store")

    def get(self, rest: str) -> bottle.HTTPResponse:
        """Answer with the torrent, if the registry lets the caller pull the layer."""
        scope, _, name = path_after("/v0/torrents/").rpartition("/")
        scope, digest = parse_scope(scope), Digest.parse(name)
        headers = request_headers()
        self._access.admit(headers)
        self._access.may_pull(scope, digest, headers.get("Authorization"))
        try:
            found = self._find(scope, digest)
        except StoreFailed as failed:
            self._outage.failed(f"torrent of {digest} not read: {failed}")
            return unavailable("the store of torrents is unavailable")
        self._outage.succeeded()
        if not isinstance(found, bytes):
            return error(*_MISSING[found], {"digest": str(digest)})
        try:
            seeds = web_seed_urls(self._config, self._secret, scope, digest, self._clock())
            torrent = with_sources(found, self._config.trackers, seeds)
        except ValueError as broken:
            log.error(
                "metainfo broken, `queue retry --digest` brews it again digest=%s reason=%s", digest, broken
            )
            return error(500, "UNKNOWN", "the stored torrent is damaged")
        return bottle.HTTPResponse(
            torrent,
            200,
            {
                "Content-Type": "application/x-bittorrent",
                "Content-Disposition": f'attachment; filename="{digest.hex}.torrent"',
                # It contains a capability for this caller, a new one at each call: no ETag.
                "Cache-Control": "private, no-store",
            },
        )

    def _find(self, scope: str, digest: Digest) -> bytes | Why:
        """Return the layer's metainfo, or why it is missing. Raises StoreFailed."""
        try:
            # The store, not the database: torrents are served while the database is down.
            metainfo = self._store.get(digest)
        except MetainfoMissing:
            return self._missing.request(scope, digest)
        self._missing.found(digest)
        return metainfo


def install(app: bottle.Bottle, torrents: TorrentHandler, concurrency: ConcurrencyLimit) -> None:
    """Add the route of this module. `concurrency` limits the requests to the registry."""
    # Bottle answers HEAD with it too, and drops the body.
    app.route("/v0/torrents/<rest:re:.+>", "GET", torrents.get, name="torrents", apply=[concurrency.limit])
