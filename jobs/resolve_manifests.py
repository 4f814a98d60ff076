"""Finds out the layers of pushed manifests whose events did not tell them, and queues these."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection

from core.backoff import delay_after
from core.digest import Digest
from core.errors import (
    NO_ANSWER,
    DockerTorrentsError,
    InvalidName,
    ManifestInvalid,
)
from core.layer import Layer
from core.registry.image_tree import Known, ReadManifest, read_tree
from jobs.service import Service
from sql.enqueue import enqueue_layers
from sql.manifests import (
    DueManifest,
    count_manifests,
    due_manifests,
    finish_manifest,
    mark_seen,
    retry_manifest,
    seen_manifests,
    set_aside_manifest,
)
from sql.tables import Priority
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

_BATCH = 50
_ENOUGH_SILENCE = 3
"""Manifests in a row that the registry does not answer for: then it is left alone until the next run."""


@dataclass
class ResolveSummary:
    """What a run did: manifests resolved, put off and set aside; layers queued; manifests that still wait."""

    resolved: int = 0
    queued: int = 0
    put_off: int = 0
    set_aside: int = 0
    waiting: int = 0
    interrupted: bool = False

    @property
    def failed(self) -> int:
        """How many manifests were not resolved, for the exit status."""
        return self.put_off + self.set_aside

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.resolved or self.queued or self.failed)

    def __str__(self) -> str:
        return (
            f"resolved {self.resolved} manifests, queued {self.queued} layers, put off {self.put_off}, "
            f"set aside {self.set_aside}, waiting {self.waiting}"
        )


def resolve_manifests(service: Service) -> ResolveSummary:
    """Resolve what is due, until nothing is or `stop` is set.

    Each manifest is fetched by its digest, an index with all that is below it. One that cannot be read, or
    whose children are not all there yet, is tried again with growing delay, and after `max_attempts` tries
    set aside with the reason; one that is no manifest is set aside at once. Whatever ends a run, what was
    queued stays queued, and the rest is due again. Raises DatabaseDown.
    """
    run = _Run(service)
    silent = 0
    while not service.stop.is_set() and silent < _ENOUGH_SILENCE:
        with reading(service.database) as connection:
            due = due_manifests(connection, service.tables, now=service.now(), limit=_BATCH)
        if not due:
            break
        for manifest in due:
            if service.stop.is_set() or silent >= _ENOUGH_SILENCE:
                break
            silent = silent + 1 if run.resolve(manifest) == "no answer" else 0
    run.summary.interrupted = service.stop.is_set()
    with reading(service.database) as connection:
        run.summary.waiting = count_manifests(connection, service.tables).waiting
    return run.summary


class _Run:
    def __init__(self, service: Service) -> None:
        self._service = service
        self._engine = service.database
        self._tables = service.tables
        self._max_attempts = service.config.brewer.max_attempts
        self.summary = ResolveSummary()

    def resolve(self, due: DueManifest) -> Literal["done", "put off", "no answer"]:
        """Queue the layers of one manifest and take it off the list, or say there why not."""
        try:
            missing = self._read(due)
        except (ManifestInvalid, InvalidName) as error:
            # Its bytes are its digest's for ever.
            return self._put_off(due, str(error), final=True)
        except NO_ANSWER as error:
            self._put_off(due, str(error))
            return "no answer"
        except DockerTorrentsError as error:
            return self._put_off(due, str(error))
        if missing:
            return self._put_off(due, f"{len(missing)} of its manifests are missing, {missing[0]} first")
        self.summary.resolved += 1
        return "done"

    def _read(self, due: DueManifest) -> tuple[Digest, ...]:
        """Queue what is below a manifest, a transaction for each that is read; the children not there yet."""
        digest = due.digest
        asked: set[Digest] = set()

        def known(child: Digest) -> Known:
            """Whether it need not be read: it was before, or this index has named it already."""
            if child in asked:
                return "whole"
            asked.add(child)
            with reading(self._engine) as connection:
                seen = seen_manifests(connection, self._tables, due.scope, [child])
            return "whole" if seen else "no"

        read = None
        for read in read_tree(self._service.registry, due.scope, digest, known=known):
            with transaction(self._engine) as connection:
                self._take(connection, due, read)
                if read.digest == digest and not read.missing:
                    finish_manifest(connection, self._tables, due.scope, due.digest)
        return read.missing if read else ()

    def _take(self, connection: Connection, due: DueManifest, read: ReadManifest) -> None:
        now = self._service.now()
        layers = [Layer(layer.digest, (due.scope,), layer.size) for layer in read.layers if layer.brewable]
        if layers:
            priority = Priority(due.priority)
            self.summary.queued += enqueue_layers(
                connection, self._tables, layers, priority=priority, now=now
            )
        if not read.missing:
            mark_seen(connection, self._tables, due.scope, [read.digest], now=now)

    def _put_off(self, due: DueManifest, reason: str, *, final: bool = False) -> Literal["put off"]:
        attempts = due.attempts + 1
        log.warning(
            "manifest not resolved scope=%s digest=%s attempts=%d reason=%s",
            due.scope,
            due.digest,
            attempts,
            reason,
        )
        with transaction(self._engine) as connection:
            if final or attempts >= self._max_attempts:
                set_aside_manifest(connection, self._tables, due.scope, due.digest, reason=reason)
                self.summary.set_aside += 1
            else:
                next_try = self._service.now() + delay_after(attempts)
                retry_manifest(
                    connection, self._tables, due.scope, due.digest, reason=reason, next_try=next_try
                )
                self.summary.put_off += 1
        return "put off"
