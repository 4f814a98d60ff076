"""A scan for tests: its database, its registry, and the layers that it queued."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from core.config.config import DockerRegistry
from core.http.client import HttpClient
from core.manifests.media_types import DOCKER_MANIFEST
from core.registry.client import RegistryClient
from jobs.repository_scan import Scan
from sql.engine import create_engine_for
from sql.schema import create_missing
from sql.scopes import grant_role
from sql.tables import Priority, build_tables
from sql.transaction import transaction
from tests.servers.bad_http import replying
from tests.servers.http_server import Answer
from tests.servers.layers import digest_of
from tests.services import service_of


def client(netloc: str) -> RegistryClient:
    return RegistryClient(DockerRegistry(host=netloc, proto="http"), HttpClient(2, 60))


@contextmanager
def start_scan(database_url: str, netloc: str) -> Iterator[Scan]:
    """Yield a scan of the registry at `netloc`, with new tables in the database."""
    engine = create_engine_for(url=database_url)
    tables = build_tables()
    with transaction(engine) as connection:
        create_missing(connection, tables)
    service = service_of(engine, tables)
    yield Scan(service, registry=client(netloc), priority=Priority.SCANNED)
    engine.dispose()


def grant(scan: Scan, *patterns: str) -> None:
    with transaction(scan.engine) as connection:
        for pattern in patterns:
            grant_role(connection, scan.service.tables, pattern, now=1)


def queued(scan: Scan) -> dict[str, int]:
    """Return the waiting digests, and their priorities."""
    queue = scan.service.tables.queue
    with transaction(scan.engine) as connection:
        return {row.digest: row.priority for row in connection.execute(sa.select(queue))}


def manifest_of(number: int) -> bytes:
    """Return the manifest of an image of one layer, different for each `number`."""
    digest = f"sha256:{number:064x}"
    blob = {"mediaType": "application/octet-stream", "size": 10, "digest": digest}
    return json.dumps(
        {"schemaVersion": 2, "mediaType": DOCKER_MANIFEST, "config": blob, "layers": [blob]}
    ).encode()


def image(number: int) -> Answer:
    """Return the answer for one tag, to HEAD and GET."""
    body = manifest_of(number)
    headers = {"Content-Type": DOCKER_MANIFEST, "Docker-Content-Digest": digest_of(body)}
    return replying(200, body, headers)
