"""What the web app is put together from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from core.access.access import Access
from core.blobs.source import BlobSource
from core.config.config import Config
from core.registry.client import RegistryClient
from core.torrents.store import MetainfoStore
from sql.tables import Tables


@dataclass(frozen=True)
class WebParts:
    """Made once by the composition root, shared by all threads of the app.

    `registry` holds no credentials: callers bring their own. `clock` gives Unix seconds.
    `capability_secret` signs the URLs of web seeds.
    """

    config: Config
    engine: sa.Engine
    tables: Tables
    registry: RegistryClient
    access: Access
    source: BlobSource
    store: MetainfoStore
    clock: Callable[[], float]
    capability_secret: bytes
