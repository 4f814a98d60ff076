"""The job resolve-manifests with its parts, for tests."""

from __future__ import annotations

import logging
import threading
from typing import Any

import sqlalchemy as sa

from core.config.config import DockerRegistry
from core.http.client import HttpClient
from core.logs import OutageLog
from core.registry.client import RegistryClient
from jobs.resolve_manifests import ResolveSummary, resolve_manifests
from sql.manifests import enqueue_manifests, seen_manifests
from sql.tables import Priority, Tables
from sql.transaction import transaction
from tests.services import service_of

NOON = 1_700_000_000
NOWHERE = "sha256:" + "0" * 64
"""A manifest that no registry has."""


class ResolveJob:
    """A database, the registry, and a clock that tests set."""

    def __init__(self, engine: sa.Engine, tables: Tables, registry: RegistryClient, scope: str) -> None:
        self.engine = engine
        self.tables = tables
        self.registry = registry
        self.scope = scope
        self.now = NOON
        self.stop = threading.Event()
        self.outage = OutageLog(logging.getLogger("tests"), "registry")

    def enqueue(self, *digests: str, scope: str | None = None) -> None:
        """Queue these manifests for resolving."""
        with transaction(self.engine) as connection:
            enqueue_manifests(
                connection,
                self.tables,
                [(scope or self.scope, digest) for digest in digests],
                priority=Priority.PUSHED,
                now=self.now,
            )

    def run(self, *, registry: RegistryClient | None = None, max_attempts: int = 3) -> ResolveSummary:
        """Run the job once."""
        service = service_of(
            self.engine,
            self.tables,
            parts={
                "registry": registry or self.registry,
                "registry_outage": self.outage,
                "clock": lambda _: self.now,
                "stop": self.stop,
            },
            brewer={"max_attempts": max_attempts},
        )
        return resolve_manifests(service)

    def queued(self) -> dict[str, int]:
        """Return the digests in the queue, and their priorities."""
        queue = self.tables.queue
        with transaction(self.engine) as connection:
            return {row.digest: row.priority for row in connection.execute(sa.select(queue))}

    def added(self) -> set[int]:
        """Return since when the layers in the queue wait."""
        queue = self.tables.queue
        with transaction(self.engine) as connection:
            return set(connection.scalars(sa.select(queue.c.added)))

    def waiting(self) -> dict[str, Any]:
        """Return the manifests still to resolve, by digest."""
        with transaction(self.engine) as connection:
            return {row.digest: row for row in connection.execute(sa.select(self.tables.manifest))}

    def seen(self, *digests: str) -> set[str]:
        """Return those of these manifests that are recorded as completely resolved."""
        with transaction(self.engine) as connection:
            return seen_manifests(connection, self.tables, self.scope, digests)


def client(url: str, read_timeout: float = 20.0) -> RegistryClient:
    """Return a client, without credentials, of the registry at `url`."""
    settings = DockerRegistry.model_validate({"host": url.removeprefix("http://"), "proto": "http"})
    return RegistryClient(settings, HttpClient(1.0, read_timeout))
