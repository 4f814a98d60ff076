"""`GET /v0/torrents/<scope>/<digest>`: the .torrent of a layer, for who may pull that layer."""

from __future__ import annotations

import logging

import bottle

from core.capability import mint
from core.digest import Digest
from core.errors import MetainfoMissing, StoreFailed
from core.metainfo import with_sources
from core.names import parse_scope
from sql.errors import DatabaseDown
from sql.intake import NewLayer, enqueue_layers
from sql.tables import Priority
from sql.transaction import transaction
from web.answers import error
from web.callers_headers import CallersHeaders
from web.parts import WebParts
from web.raw_path import raw_rest

log = logging.getLogger(__name__)

_BREWING_SECONDS = "30"


def install(app: bottle.Bottle, parts: WebParts) -> None:
    """Add the calls of this module to `app`."""

    def torrent(rest: str) -> bottle.HTTPResponse:
        scope, _, digest = raw_rest("/v0/torrents/").rpartition("/")
        return _torrent(parts, parse_scope(scope), Digest.parse(digest))

    # Bottle answers HEAD with it too, and leaves the body out.
    app.route("/v0/torrents/<rest:re:.+>", "GET", torrent)


def _torrent(parts: WebParts, scope: str, digest: Digest) -> bottle.HTTPResponse:
    headers = CallersHeaders(bottle.request.environ)
    parts.access.admit(headers)
    parts.access.may_pull(scope, digest, headers.get("Authorization"))
    try:
        # The store alone decides, not the mapping: torrents are handed out with the database down too.
        metainfo = parts.store.get(digest)
    except MetainfoMissing:
        _queue(parts, scope, digest)
        retry = [("Retry-After", _BREWING_SECONDS)]
        return error(404, "TORRENT_UNKNOWN", "the layer is not brewed yet", retry, {"digest": str(digest)})
    except StoreFailed as failed:
        log.error("metainfo not read digest=%s reason=%s", digest, failed)
        return error(503, "UNAVAILABLE", "the torrents are out of reach", [("Retry-After", "5")])
    try:
        served = with_sources(metainfo, parts.config.trackers, _web_seeds(parts, scope, digest))
    except ValueError as broken:
        log.error("metainfo broken digest=%s reason=%s", digest, broken)
        return error(500, "UNKNOWN", "the torrent that was kept is none any more")
    return bottle.HTTPResponse(
        served,
        200,
        {
            "Content-Type": "application/x-bittorrent",
            "Content-Disposition": f'attachment; filename="{digest.hex}.torrent"',
            # It may hold a capability made for this caller, and another one at each call: no ETag.
            "Cache-Control": "private, no-store",
        },
    )


def _web_seeds(parts: WebParts, scope: str, digest: Digest) -> list[str]:
    """URLs of the layer, by the configured templates; those of this app let their holder in for a while."""
    config = parts.config
    expires = int(parts.clock()) + config.torrents.web_seed_lifetime
    fields = {
        "public_url": (config.application.public_url or "").rstrip("/"),
        "scope": scope,
        "digest": str(digest),
        "hex": digest.hex,
        "short_digest": digest.short,
        "capability": mint(parts.capability_secret, digest, scope, expires),
    }
    return [template.format_map(fields) for template in config.web_seeds]


def _queue(parts: WebParts, scope: str, digest: Digest) -> None:
    """Have the layer brewed before all that nobody waits for. No answer fails because this does."""
    try:
        with transaction(parts.engine) as connection:
            enqueue_layers(
                connection,
                parts.tables,
                [NewLayer(str(digest), None, scope)],
                priority=Priority.ASKED,
                now=int(parts.clock()),
            )
    except DatabaseDown as down:
        log.warning("layer not queued digest=%s scope=%s reason=%s", digest, scope, down)
