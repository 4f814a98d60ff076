"""Request that the service brews layers without a torrent, for the next machine that pulls them.

The service queues the layers of a manifest that is requested with ids. Engines get the registry's own
manifest, so the mirror requests that one too: once, when a layer that the manifest names has no torrent.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from cachetools import TTLCache

from core.digest import Digest
from core.errors import ManifestInvalid, RemoteError
from core.manifests.manifest import Image, digest_of, parse_manifest

log = logging.getLogger(__name__)

REMEMBER_SECONDS = 600.0
_MAX_LAYERS = 50_000
_MAX_MANIFESTS = 10_000
_MAX_WAITING = 100


@dataclass(frozen=True, slots=True)
class BrewRequest:
    """A manifest to request with the caller's Authorization."""

    scope: str
    manifest: Digest
    authorization: str | None = field(repr=False)


class BrewRequests:
    """Remembers which manifest names a layer, and sends requests in a separate thread. Thread-safe.

    `send` makes the request; it may raise RemoteError.
    """

    def __init__(self, send: Callable[[BrewRequest], None]) -> None:
        self._send = send
        self._lock = threading.Lock()
        self._manifests: TTLCache[tuple[str, Digest], Digest] = TTLCache(_MAX_LAYERS, REMEMBER_SECONDS)
        self._requested: TTLCache[tuple[str, Digest], bool] = TTLCache(_MAX_MANIFESTS, REMEMBER_SECONDS)
        self._waiting: queue.Queue[BrewRequest | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name="brew requests", daemon=True)
        self._thread.start()

    def remember_layers(self, scope: str, body: bytes, media_type: str) -> None:
        """Remember the layers of a manifest that passed through."""
        try:
            manifest = parse_manifest(body, media_type)
        except ManifestInvalid:
            return
        if not isinstance(manifest, Image):
            return
        digest = digest_of(body)
        with self._lock:
            for layer in manifest.layers:
                if layer.brewable:
                    self._manifests[scope, layer.digest] = digest

    def request(self, scope: str, layer: Digest, authorization: str | None) -> None:
        """Request brewing of the layer, if a manifest that names it was seen recently."""
        with self._lock:
            manifest = self._manifests.get((scope, layer))
            if manifest is None or (scope, manifest) in self._requested or self._waiting.full():
                return
            self._requested[scope, manifest] = True
            self._waiting.put_nowait(BrewRequest(scope, manifest, authorization))

    def close(self) -> None:
        """End the thread; waiting requests are dropped."""
        with self._lock:
            with suppress(queue.Empty):
                while True:
                    self._waiting.get_nowait()
            self._waiting.put_nowait(None)
        self._thread.join()

    def _run(self) -> None:
        while (request := self._waiting.get()) is not None:
            try:
                self._send(request)
            except RemoteError as error:
                log.info("brewing not requested scope=%s reason=%s", request.scope, error)
