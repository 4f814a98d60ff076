"""Queue brewed layers again whose metainfo is missing from the store."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core.blobs.storage_layout import position_of
from core.errors import MetainfoMissing, StoreFailed
from core.failures import FailureStreak
from jobs.progress import Progress
from jobs.service import Service
from sql.requeue import BrewedLayer, list_brewed_here, requeue_brewed
from sql.tables import Priority
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

_BATCH = 500
_READERS = 8
_MAX_FAILURES = 20
"""Consecutive layers without an answer after which the store itself is probed."""


@dataclass
class LostSummary:
    """How many layers were `looked_up` in the store, `queued` as lost, and `failed` to be looked up."""

    looked_up: int = 0
    queued: int = 0
    failed: int = 0
    broken: str | None = None
    interrupted: bool = False

    def __str__(self) -> str:
        end = ", interrupted: run it again" if self.interrupted else ""
        if self.broken is not None:
            end = f", stopped, run it again: {self.broken}"
        return f"queued again {self.queued}, looked up {self.looked_up} torrents, failed {self.failed}{end}"


def queue_lost(service: Service) -> LostSummary:
    """Look up all layers that were brewed here, and queue those without metainfo at the lowest priority.

    Each batch is a transaction: layers queued before an interruption stay queued. If the store fails,
    no layer counts as lost. Raises DatabaseDown.
    """
    run = _Run(service)
    with (
        Progress("lost torrents", "layers") as progress,
        ThreadPoolExecutor(_READERS, thread_name_prefix="lookup") as pool,
    ):
        run.run(progress, pool)
    return run.summary


class _Run:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.summary = LostSummary()
        self._streak = FailureStreak(service.store.check, _MAX_FAILURES)

    def run(self, progress: Progress, pool: ThreadPoolExecutor) -> None:
        cursor: str | None = ""
        while cursor is not None and not self._over():
            with reading(self.service.database) as connection:
                layers, cursor = list_brewed_here(connection, self.service.tables, after=cursor, limit=_BATCH)
            self._queue(self._lost(layers, pool))
            if layers:
                # Digests are evenly distributed.
                done = position_of(layers[-1].digest)
                progress.estimate(round(self.summary.looked_up / max(done, 1e-9)))
            progress.step(len(layers), note=f"{self.summary.queued} lost")

    def _over(self) -> bool:
        self.summary.interrupted = self.summary.interrupted or self.service.stop.is_set()
        return self.summary.interrupted or self.summary.broken is not None

    def _lost(self, layers: Sequence[BrewedLayer], pool: ThreadPoolExecutor) -> list[BrewedLayer]:
        """Return the layers whose metainfo is missing from the store."""
        lookups = [(layer, pool.submit(self._exists, layer)) for layer in layers]
        lost = []
        for layer, lookup in lookups:
            if self._over():
                lookup.cancel()
                continue
            try:
                exists = lookup.result()
            except StoreFailed as error:
                self._failed(layer, error)
                continue
            self._streak.succeeded()
            self.summary.looked_up += 1
            if not exists:
                lost.append(layer)
        return lost

    def _exists(self, layer: BrewedLayer) -> bool:
        try:
            self.service.store.get(layer.digest)
        except MetainfoMissing:
            return False
        return True

    def _failed(self, layer: BrewedLayer, error: StoreFailed) -> None:
        """Count a failure, and end the search after too many in a row."""
        self.summary.failed += 1
        log.warning("metainfo not looked up digest=%s reason=%s", layer.digest, error)
        if self._streak.unanswered():
            self.summary.broken = str(error)

    def _queue(self, lost: Sequence[BrewedLayer]) -> None:
        service = self.service
        if not lost:
            return
        with transaction(service.database) as connection:
            now = service.now(connection)
            self.summary.queued += requeue_brewed(
                connection, service.tables, lost, priority=Priority.BACKFILLED, now=now
            )
        for layer in lost:
            log.info("metainfo lost, layer queued digest=%s", layer.digest)
