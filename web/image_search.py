"""The search of the status page: the state of a layer, or how much of an image is brewed."""

from __future__ import annotations

import time
from collections.abc import Callable
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
from sql.transaction import reading
from web.limits import Turns

MAX_TEXT = 512
"""Characters: more than any scope with a tag or digest has."""

MAX_MANIFESTS = 40
"""Manifests of an index that one search reads."""

SECONDS = 10.0
"""After this time a search reads no further manifest."""


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

    def __init__(self, config: Config, engine: Engine, tables: Tables, registry: RegistryClient) -> None:
        self._engine = engine
        self._tables = tables
        self._registry = registry
        self._usual = tuple(Platform.parse(name) for name in config.jobs.scan_tags.platforms)
        self._turns = Turns("searches", 4, waiting=8, seconds=5.0)

    def find(self, text: str, *, now: int) -> Found:
        """Return the result for `text`. Raises DatabaseDown, or bottle.HTTPResponse (503) if busy."""
        text = text.strip()
        if len(text) > MAX_TEXT:
            return Found(text[:MAX_TEXT], 404, problem=f"expected at most {MAX_TEXT} characters")
        try:
            named = parse_digest_or_image(text)
        except InvalidName as invalid:
            return Found(text, 404, problem=str(invalid))
        if isinstance(named, Digest):
            return self._find_layer(text, named, now)
        with self._turns.turn():
            return self._find_image(text, *named, now)

    def _find_layer(self, text: str, digest: Digest, now: int) -> Found:
        with reading(self._engine) as connection:
            record = find_layer(connection, self._tables, digest, now=now)
        if record is None:
            return Found(text, 404, problem="This layer is unknown: no push, request or scan has named it.")
        return Found(text, layer=record)

    def _find_image(self, text: str, scope: str, reference: str | Digest, now: int) -> Found:
        try:
            contents = read_image_contents(
                self._registry, scope, reference, usual=self._usual, may_read=_budget()
            )
        except NotFound:
            return Found(text, 404, problem="The registry has no such image.")
        except (RemoteError, ManifestInvalid) as error:
            return Found(text, 502, problem=f"The registry does not return this image: {error}")
        with reading(self._engine) as connection:
            return Found(text, image=find_coverage(connection, self._tables, contents, now=now))


def _budget() -> Callable[[], bool]:
    """Return a function that is True for MAX_MANIFESTS calls, and no longer than SECONDS."""
    until, left = time.monotonic() + SECONDS, MAX_MANIFESTS

    def may_read() -> bool:
        nonlocal left
        left -= 1
        return left >= 0 and time.monotonic() < until

    return may_read
