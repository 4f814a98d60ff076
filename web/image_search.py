"""The search of the status page: the state of a layer, or how much of an image is brewed."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Engine

from core.config.config import Config
from core.digest import Digest
from core.errors import InvalidName, ManifestInvalid, NotFound, RemoteError
from core.manifests.coverage import Coverage
from core.manifests.platform import Platform
from core.names import parse_digest_or_image
from core.registry.client import RegistryClient
from core.registry.image_contents import read_image_contents
from sql.layers import LayerRecord, find_coverage, find_layer
from sql.tables import Tables
from sql.transaction import Clock, reading
from web.limits import ConcurrencyLimit

MAX_TEXT = 512
"""Characters: more than any scope with a tag or digest has."""

SECONDS = 10.0
"""After this time a search reads no further manifest of an index."""


@dataclass(frozen=True)
class Found:
    """What a search found: a layer, an image, or the reason why nothing. `status` is that of the answer."""

    text: str
    status: int = 200
    layer: LayerRecord | None = None
    image: Coverage | None = None
    problem: str | None = None


class ImageSearch:
    """Searches with the service's own credentials, so only for users who may see the status page.

    A few searches run at once, each in bounded time.
    """

    def __init__(
        self, config: Config, engine: Engine, tables: Tables, registry: RegistryClient, clock: Clock
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._registry = registry
        self._clock = clock
        self._usual = tuple(Platform.parse(name) for name in config.jobs.scan_tags.platforms)
        self._concurrency = ConcurrencyLimit("searches", 4, waiting=8, seconds=5.0)

    def find(self, text: str) -> Found:
        """Return the result for `text`. Raises DatabaseDown, or bottle.HTTPResponse (503) if busy."""
        text = text.strip()
        if len(text) > MAX_TEXT:
            return Found(text[:MAX_TEXT], 404, problem=f"expected at most {MAX_TEXT} characters")
        try:
            named = parse_digest_or_image(text)
        except InvalidName as invalid:
            return Found(text, 404, problem=str(invalid))
        if isinstance(named, Digest):
            return self._find_layer(text, named)
        with self._concurrency.slot():
            return self._find_image(text, *named)

    def _find_layer(self, text: str, digest: Digest) -> Found:
        with reading(self._engine) as connection:
            record = find_layer(connection, self._tables, digest, now=self._clock(connection))
        if record is None:
            return Found(text, 404, problem="This layer is unknown: no push, request or scan has named it.")
        return Found(text, layer=record)

    def _find_image(self, text: str, scope: str, reference: str | Digest) -> Found:
        until = time.monotonic() + SECONDS
        try:
            contents = read_image_contents(
                self._registry,
                scope,
                reference,
                usual=self._usual,
                may_read=lambda: time.monotonic() < until,
            )
        except NotFound:
            return Found(text, 404, problem="The registry has no such image.")
        except (RemoteError, ManifestInvalid) as error:
            return Found(text, 502, problem=f"The registry does not return this image: {error}")
        with reading(self._engine) as connection:
            now = self._clock(connection)
            return Found(text, image=find_coverage(connection, self._tables, contents, now=now))
