"""`GET` and `HEAD /v2/<scope>/manifests/<reference>`, and `/v2/`: the registry's answers, some with ids."""

from __future__ import annotations

import logging

import bottle

from core.digest import Digest
from core.errors import ManifestInvalid
from core.manifests.augment import brewable
from core.manifests.platform import Platform
from core.registry.client import RegistryClient
from web.answers import error
from web.asked_for import is_current, parse_path, wanted_platform, wants_ids
from web.asked_layers import AskedLayers
from web.augmented import with_ids
from web.callers_headers import CallersHeaders
from web.found_image import FoundImage, NoImage, find_image
from web.known_ids import KnownIds
from web.parts import WebParts
from web.proxied import lasting, passed_on, untouched

log = logging.getLogger(__name__)

# They describe other bytes than those sent.
_OF_THE_BODY = frozenset(("content-length", "docker-content-digest", "etag", "last-modified", "content-md5"))


def install(app: bottle.Bottle, parts: WebParts) -> list[KnownIds | AskedLayers]:
    """Add the calls of this module to `app`. Returns what has to be closed with it."""
    known = KnownIds(parts.engine, parts.tables, parts.clock)
    asked = AskedLayers(parts.engine, parts.tables, parts.clock)
    manifests = _Manifests(parts, known, asked)
    for path in ("/v2", "/v2/"):
        app.route(path, ["GET", "HEAD"], manifests.ping)
    app.route("/v2/<rest:re:.+>", "GET", manifests.get)
    # By itself: Bottle would answer with GET's handler, and with the length of an augmented body.
    app.route("/v2/<rest:re:.+>", "HEAD", manifests.head)
    return [known, asked]


class _Manifests:
    def __init__(self, parts: WebParts, known: KnownIds, asked: AskedLayers) -> None:
        self._registry: RegistryClient = parts.registry
        self._access = parts.access
        self._known = known
        self._asked = asked
        settings = parts.config.docker_registry
        self._accept = settings.compatibility_header
        self._platform = settings.default_platform
        # However many manifests it takes to find the image.
        self._seconds = settings.connect_timeout + settings.read_timeout

    def ping(self) -> bottle.HTTPResponse:
        """The registry's answer to `/v2/`: its challenge is what clients come for."""
        method = bottle.request.method
        headers = CallersHeaders(bottle.request.environ)
        return untouched(self._registry.forward(method, None, "", passed_on(headers)), head=method == "HEAD")

    def head(self, rest: str) -> bottle.HTTPResponse:
        """The registry's answer: its digest and length are those of the bytes that a GET by digest gives."""
        named = _named()
        if named is None:
            return _nothing_here()
        headers = CallersHeaders(bottle.request.environ)
        self._access.admit(headers)
        return untouched(self._registry.forward("HEAD", *named, passed_on(headers)), head=True)

    def get(self, rest: str) -> bottle.HTTPResponse:
        """The manifest, augmented for whoever can use that (web/asked_for.py), untouched for the others."""
        named = _named()
        if named is None:
            return _nothing_here()
        scope, reference = named
        headers, query = CallersHeaders(bottle.request.environ), bottle.request.query
        said = query.get("rbtorrent")
        ids_wanted = wants_ids(reference, headers.get("Accept"), said)
        platform = wanted_platform(query.get("platform"), self._platform)
        self._access.admit(headers)
        if ids_wanted:
            answer = self._with_ids(scope, reference, headers, platform)
        else:
            answer = untouched(self._registry.forward("GET", scope, reference, passed_on(headers)))
        if not said and not isinstance(reference, Digest):
            # Accept has decided whether there are ids in it.
            answer.add_header("Vary", "Accept")
        return answer

    def _with_ids(
        self, scope: str, reference: str | Digest, headers: CallersHeaders, platform: Platform
    ) -> bottle.HTTPResponse:
        """The image's manifest with ids; the registry's answer if there is none."""
        # If-None-Match is about our bytes: the registry would compare it with its own. Host could lead to
        # another server at its address, whose layers would get ids and be queued.
        left_out = ("Accept", "Host", "If-None-Match")
        sent = {**passed_on(headers, without=left_out), "Accept": self._accept}
        try:
            found = find_image(self._registry, scope, reference, sent, platform, self._seconds)
            if isinstance(found, FoundImage):
                return self._augmented(scope, found, headers.get("If-None-Match"))
            return untouched(found)
        except NoImage:
            message = "the index has no image for the platform"
            return error(404, "MANIFEST_UNKNOWN", message, detail={"platform": str(platform)})
        except ManifestInvalid as invalid:
            log.warning("manifest refused scope=%s reference=%s reason=%s", scope, reference, invalid)
            raise

    def _augmented(self, scope: str, found: FoundImage, if_none_match: str | None) -> bottle.HTTPResponse:
        read = found.read
        ids, all_known = self._known.find(read.layers)
        augmented = with_ids(read, ids)
        # Without the database nobody knows which are brewed; and it would not take the others.
        if all_known and len(ids) < len(read.layers):
            missing = [layer for layer in brewable(read.image) if str(layer.digest) not in ids]
            queued = self._asked.put(scope, missing)
            if queued:
                log.info("layers asked for scope=%s digest=%s queued=%d", scope, read.digest, queued)
        etag = f'"{augmented.digest}"'
        if is_current(if_none_match, etag):
            answer = bottle.HTTPResponse(b"", 304)
        else:
            answer = bottle.HTTPResponse(augmented.body, 200)
        for name, value in lasting(found.answer, without=_OF_THE_BODY):
            answer.add_header(name, value)
        answer.add_header("Docker-Content-Digest", str(augmented.digest))
        answer.add_header("ETag", etag)
        answer.add_header("Rbtorrent-Image-Digest", str(read.digest))
        return answer


def _named() -> tuple[str, str | Digest] | None:
    """What the path names. Bottle's own reading of it leaves out bytes that are no UTF-8, so that another
    name could come out.
    """
    raw: str = bottle.request.environ["bottle.raw_path"]
    return parse_path(raw.removeprefix("/v2/"))


def _nothing_here() -> bottle.HTTPResponse:
    return error(404, "NOT_FOUND", "there is nothing here: only manifests are served")
