"""Find the layers of pushed manifests whose events did not list them, and queue these layers."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sqlalchemy import Connection

from core.digest import Digest
from core.errors import DatabaseDown, DockerTorrentsError, InvalidName, ManifestInvalid, RegistryDown
from core.failures import FailureStreak, delay_after
from core.layer import Layer
from core.registry.image_tree import Known, ReadManifest, TreeReader
from jobs.service import Service
from sql.enqueue import enqueue_layers
from sql.manifests import (
    DueManifest,
    count_waiting_manifests,
    due_manifests,
    fail_manifest,
    finish_manifest,
    mark_seen,
    seen_manifests,
)
from sql.tables import Priority
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

_BATCH = 50


@dataclass
class ResolveSummary:
    """The results of a run: manifests resolved, delayed and set aside; layers queued; manifests still
    waiting.

    `paused` is why the registry did not answer, which ended the run.
    """

    resolved: int = 0
    queued: int = 0
    delayed: int = 0
    set_aside: int = 0
    waiting: int = 0
    paused: str | None = None
    interrupted: bool = False

    @property
    def failed(self) -> int:
        """The number of manifests that were not resolved, for the exit status."""
        return self.delayed + self.set_aside

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.resolved or self.queued or self.failed)

    def __str__(self) -> str:
        end = f", paused: {self.paused}" if self.paused else ""
        return (
            f"resolved {self.resolved} manifests, queued {self.queued} layers, delayed {self.delayed}, "
            f"set aside {self.set_aside}, waiting {self.waiting}{end}"
        )


def resolve_manifests(service: Service) -> ResolveSummary:
    """Resolve manifests until none is due or the service is stopped.

    Each manifest is fetched by its digest, an index with everything below it. One that cannot be read, or
    some of whose children are missing, is retried with growing delay, and set aside with the reason after
    `brewer.max_attempts` attempts; an invalid one is set aside at once. If the registry does not answer at
    all, the run ends, and no attempt is counted. Queued layers stay queued however a run ends. Raises
    DatabaseDown.
    """
    run = _Run(service)
    engine, tables = service.database, service.tables
    try:
        while not service.stop.is_set():
            with reading(engine) as connection:
                due = due_manifests(connection, tables, now=service.now(connection), limit=_BATCH)
            if not due:
                break
            for manifest in due:
                if service.stop.is_set():
                    break
                run.resolve(manifest)
    except RegistryDown as down:
        run.summary.paused = str(down)
        service.registry_outage.failed(f"manifests wait: {down}")
    else:
        if not run.summary.idle:
            service.registry_outage.succeeded()
    run.summary.interrupted = service.stop.is_set()
    with reading(engine) as connection:
        run.summary.waiting = count_waiting_manifests(connection, tables)
    return run.summary


class _Run:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._engine = service.database
        self._tables = service.tables
        self._streak = FailureStreak(service.registry.ping, 1)
        self.summary = ResolveSummary()

    def resolve(self, due: DueManifest) -> None:
        """Queue the layers of one manifest and remove it from the list, or record why that failed.

        Raises RegistryDown or DatabaseDown; then nothing is recorded.
        """
        try:
            unread = self._read(due)
        except (RegistryDown, DatabaseDown):
            raise
        except (ManifestInvalid, InvalidName) as error:
            # The bytes of a digest never change.
            self._delay(due, str(error), final=True)
        except DockerTorrentsError as error:
            self._check_registry(error)
            self._delay(due, str(error))
        else:
            if unread:
                first = f"{len(unread)} of its manifests cannot be read, first {unread[0]}"
                self._delay(due, first)
            else:
                self.summary.resolved += 1

    def _check_registry(self, error: DockerTorrentsError) -> None:
        if self._streak.failed(error):
            raise RegistryDown(str(error)) from error

    def _read(self, due: DueManifest) -> tuple[Digest, ...]:
        """Queue the layers below a manifest. Return the children that cannot be read."""
        digest = due.digest

        def known(child: Digest) -> Known:
            with reading(self._engine) as connection:
                seen = seen_manifests(connection, self._tables, due.scope, [child])
            return "whole" if seen else "no"

        reader = TreeReader(
            self._service.registry,
            due.scope,
            known=known,
            failed=lambda child, error: self._check_registry(error),
        )
        read = None
        for read in reader.read(digest):
            with transaction(self._engine) as connection:
                self._queue(connection, due, read)
                if read.digest == digest and not read.unread:
                    finish_manifest(connection, self._tables, due.scope, due.digest)
        return read.unread if read else ()

    def _queue(self, connection: Connection, due: DueManifest, read: ReadManifest) -> None:
        layers = [Layer(layer.digest, (due.scope,), layer.size) for layer in read.layers if layer.brewable]
        if layers:
            priority = Priority(due.priority)
            # They have waited since the manifest was pushed.
            self.summary.queued += enqueue_layers(
                connection, self._tables, layers, priority=priority, now=due.added
            )
        if not read.unread:
            now = self._service.now(connection)
            mark_seen(connection, self._tables, due.scope, [read.digest], now=now)

    def _delay(self, due: DueManifest, reason: str, *, final: bool = False) -> None:
        attempts = due.attempts + 1
        log.warning(
            "manifest not resolved scope=%s digest=%s attempts=%d reason=%s",
            due.scope,
            due.digest,
            attempts,
            reason,
        )
        last = final or attempts >= self._service.config.brewer.max_attempts
        with transaction(self._engine) as connection:
            next_try = None if last else self._service.now(connection) + delay_after(attempts)
            fail_manifest(connection, self._tables, due.scope, due.digest, reason=reason, next_try=next_try)
        self.summary.set_aside += last
        self.summary.delayed += not last
