"""`GET /v0/torrents/<scope>/<digest>`: the .torrent of a layer, for who may pull that layer."""

from __future__ import annotations

import logging

import bottle

from core.digest import Digest
from core.errors import MetainfoMissing, StoreFailed
from core.names import parse_scope
from core.torrents.capability import mint
from core.torrents.metainfo import with_sources
from web.answers import error
from web.callers_headers import CallersHeaders
from web.missing_torrents import MissingTorrents, Why
from web.parts import WebParts
from web.raw_path import raw_rest

log = logging.getLogger(__name__)

_BREWING = (("Retry-After", "30"),)

_MISSING: dict[Why, tuple[int, str, str, tuple[tuple[str, str], ...]]] = {
    "not brewed": (404, "TORRENT_UNKNOWN", "the layer is not brewed yet", _BREWING),
    "not known": (
        404,
        "TORRENT_UNKNOWN",
        "it is not known as a layer: who asks for a manifest that names it has it brewed",
        _BREWING,
    ),
    "brewed again": (404, "TORRENT_UNKNOWN", "its torrent was lost, and is being brewed again", _BREWING),
    "made elsewhere": (
        404,
        "TORRENT_UNKNOWN",
        "its id was taken over from the older service, which serves its torrent",
        (),
    ),
    "not stored": (503, "UNAVAILABLE", "the layer is brewed, and its torrent is not in the store", _BREWING),
}
"""What a torrent that is not there is answered with: status, code, message, headers."""


def install(app: bottle.Bottle, parts: WebParts) -> None:
    """Add the calls of this module to `app`."""
    missing = MissingTorrents(parts.engine, parts.tables, parts.store, parts.clock)

    def torrent(rest: str) -> bottle.HTTPResponse:
        scope, _, digest = raw_rest("/v0/torrents/").rpartition("/")
        return _torrent(parts, missing, parse_scope(scope), Digest.parse(digest))

    # Bottle answers HEAD with it too, and leaves the body out.
    app.route("/v0/torrents/<rest:re:.+>", "GET", torrent)


def _torrent(parts: WebParts, missing: MissingTorrents, scope: str, digest: Digest) -> bottle.HTTPResponse:
    headers = CallersHeaders(bottle.request.environ)
    parts.access.admit(headers)
    parts.access.may_pull(scope, digest, headers.get("Authorization"))
    try:
        found = _find(parts, missing, scope, digest)
    except StoreFailed as failed:
        log.error("metainfo not read digest=%s reason=%s", digest, failed)
        return error(503, "UNAVAILABLE", "the torrents are out of reach", [("Retry-After", "5")])
    if not isinstance(found, bytes):
        return error(*_MISSING[found], {"digest": str(digest)})
    try:
        served = with_sources(found, parts.config.trackers, _web_seeds(parts, scope, digest))
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


def _find(parts: WebParts, missing: MissingTorrents, scope: str, digest: Digest) -> bytes | Why:
    """The layer's metainfo, or why there is none. Raises StoreFailed."""
    try:
        # The store first, and not the mapping: torrents are handed out with the database down too.
        metainfo = parts.store.get(digest)
    except MetainfoMissing:
        return missing.ask_for(scope, digest)
    missing.is_there(digest)
    return metainfo


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
