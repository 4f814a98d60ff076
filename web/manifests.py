"""`GET` and `HEAD /v2/<scope>/manifests/<reference>`, and `/v2/`: the registry's answers, some with ids
added."""

from __future__ import annotations

import logging

import bottle

from core.access.access import Access
from core.config.config import DockerRegistry
from core.digest import Digest
from core.errors import ManifestInvalid
from core.http.byte_range import etag_matches
from core.http.forwarding import end_to_end_headers
from core.manifests.platform import Platform
from core.metrics import LAYERS
from core.registry.client import RegistryClient
from web.augment_rules import parse_path, requested_platform, wants_ids
from web.augmented import with_ids
from web.errors import error
from web.forwarding import forwarded_headers, untouched
from web.id_lookup import IdLookup
from web.image_lookup import FoundImage, find_image
from web.limits import ConcurrencyLimit
from web.on_demand import OnDemandQueue
from web.request import RequestHeaders, path_after, request_headers

log = logging.getLogger(__name__)

_ABOUT_THE_BODY = frozenset(
    ("content-length", "docker-content-digest", "etag", "last-modified", "content-md5")
)
"""Headers of the registry's answer that do not apply to an augmented body."""


class ManifestHandler:
    """Answers for `registry`, to callers that `access` admits."""

    def __init__(
        self,
        settings: DockerRegistry,
        registry: RegistryClient,
        access: Access,
        ids: IdLookup,
        on_demand: OnDemandQueue,
    ) -> None:
        self._registry = registry
        self._access = access
        self._ids = ids
        self._on_demand = on_demand
        self._accept = settings.compatibility_header
        self._platform = settings.default_platform
        # For all requests to find an image together.
        self._seconds = settings.connect_timeout + settings.read_timeout

    def ping(self) -> bottle.HTTPResponse:
        """Answer `/v2/` with the registry's answer, for its challenge."""
        method = bottle.request.method
        answer = self._registry.forward(
            method, self._registry.urls.base, forwarded_headers(request_headers())
        )
        return untouched(answer, head=method == "HEAD")

    def head(self, rest: str) -> bottle.HTTPResponse:
        """Answer with the registry's answer: digest and length of the bytes that a GET by digest returns."""
        named = parse_path(path_after("/v2/"))
        if named is None:
            return _not_found()
        headers = request_headers()
        self._access.admit(headers)
        url = self._registry.urls.manifest(*named)
        return untouched(self._registry.forward("HEAD", url, forwarded_headers(headers)), head=True)

    def get(self, rest: str) -> bottle.HTTPResponse:
        """Answer with the manifest, augmented or untouched (web/augment_rules.py)."""
        named = parse_path(path_after("/v2/"))
        if named is None:
            return _not_found()
        scope, reference = named
        headers, query = request_headers(), bottle.request.query
        explicit = query.get("rbtorrent")
        augment = wants_ids(reference, headers.get("Accept"), explicit)
        platform = requested_platform(query.get("platform"), self._platform)
        self._access.admit(headers)
        if augment:
            answer = self._with_ids(scope, reference, headers, platform)
        else:
            url = self._registry.urls.manifest(scope, reference)
            answer = untouched(self._registry.forward("GET", url, forwarded_headers(headers)))
        if not explicit and not isinstance(reference, Digest):
            # Accept decided whether to add ids.
            answer.add_header("Vary", "Accept")
        return answer

    def _with_ids(
        self, scope: str, reference: str | Digest, headers: RequestHeaders, platform: Platform
    ) -> bottle.HTTPResponse:
        """Return the image's manifest with ids; the registry's answer if there is no image."""
        # If-None-Match is about our bytes, not the registry's. Host could select another server at the
        # registry's address, whose layers would get ids and be queued.
        forwarded = forwarded_headers(headers, without=("Accept", "Host", "If-None-Match"))
        sent = {**forwarded, "Accept": self._accept}
        try:
            found = find_image(self._registry, scope, reference, sent, platform, self._seconds)
        except ManifestInvalid as invalid:
            log.warning("manifest refused scope=%s reference=%s reason=%s", scope, reference, invalid)
            raise
        if found is None:
            message = "the index has no image for the platform"
            return error(404, "MANIFEST_UNKNOWN", message, detail={"platform": str(platform)})
        if isinstance(found, FoundImage):
            return self._augmented(scope, found, headers.get("If-None-Match"))
        return untouched(found)

    def _augmented(self, scope: str, found: FoundImage, if_none_match: str | None) -> bottle.HTTPResponse:
        manifest = found.manifest
        ids, complete = self._ids.find(manifest.layers)
        augmented = with_ids(manifest, ids)
        LAYERS.count("augmented", amount=len(ids))
        LAYERS.count("missing", amount=len(set(manifest.layers)) - len(ids))
        # While the database is down it is unknown which layers are missing, and they could not be queued.
        if complete and len(ids) < len(manifest.layers):
            layers = manifest.image.layers
            missing = [layer for layer in layers if layer.brewable and layer.digest not in ids]
            queued = self._on_demand.put(scope, missing)
            if queued:
                log.info(
                    "layers queued on demand scope=%s digest=%s queued=%d", scope, manifest.digest, queued
                )
        etag = f'"{augmented.digest}"'
        if etag_matches(if_none_match, etag):
            answer = bottle.HTTPResponse(b"", 304)
        else:
            answer = bottle.HTTPResponse(augmented.body, 200)
        for name, value in end_to_end_headers(found.answer.headers, without=_ABOUT_THE_BODY):
            answer.add_header(name, value)
        answer.add_header("Docker-Content-Digest", str(augmented.digest))
        answer.add_header("ETag", etag)
        answer.add_header("Rbtorrent-Image-Digest", str(manifest.digest))
        return answer


def install(app: bottle.Bottle, manifests: ManifestHandler, concurrency: ConcurrencyLimit) -> None:
    """Add the routes of this module. `concurrency` limits the requests to the registry."""
    for path in ("/v2", "/v2/"):
        app.route(path, ["GET", "HEAD"], manifests.ping, name="base", apply=[concurrency.limit])
    app.route("/v2/<rest:re:.+>", "GET", manifests.get, name="manifests", apply=[concurrency.limit])
    # A separate route: Bottle would answer HEAD by GET's handler, with the length of an augmented body.
    app.route("/v2/<rest:re:.+>", "HEAD", manifests.head, name="manifests_head", apply=[concurrency.limit])


def _not_found() -> bottle.HTTPResponse:
    return error(404, "NOT_FOUND", "not found: only manifests are served here")
