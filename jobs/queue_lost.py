"""Looks for brewed layers whose metainfo is not in the store any more, and has them brewed again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core.blobs.storage_layout import position_of
from core.digest import Digest
from core.errors import MetainfoMissing, StoreFailed
from jobs.progress import Progress
from jobs.service import Service
from sql.requeue import BrewedLayer, list_brewed_here, requeue_brewed
from sql.tables import Priority
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

_BATCH = 500
_READERS = 8
_ENOUGH_SILENCE = 20
"""Layers in a row for which the store does not answer: then it is left alone."""


@dataclass
class LostSummary:
    """Layers `looked` for in the store, `queued` as they are lost, and `failed`, of which nobody can say."""

    looked: int = 0
    queued: int = 0
    failed: int = 0
    broken: str | None = None
    interrupted: bool = False

    def __str__(self) -> str:
        end = ", interrupted: run it again" if self.interrupted else ""
        if self.broken is not None:
            end = f", broken off, run it again: {self.broken}"
        return f"queued anew {self.queued}, looked for {self.looked} torrents, unanswered {self.failed}{end}"


def queue_lost(service: Service) -> LostSummary:
    """Looks through all layers that were brewed here, and queues those without metainfo, to be brewed last.

    Each batch is a transaction, so that what was queued stays so when it is interrupted. A store that does
    not answer has lost nothing. Raises DatabaseDown.
    """
    run = _Run(service)
    with (
        Progress("lost torrents", "layers") as progress,
        ThreadPoolExecutor(_READERS, thread_name_prefix="look") as pool,
    ):
        run.go(progress, pool)
    return run.summary


class _Run:
    def __init__(self, service: Service) -> None:
        self.service = service
        self.summary = LostSummary()
        self._silent = 0

    def go(self, progress: Progress, pool: ThreadPoolExecutor) -> None:
        place: str | None = ""
        while place is not None and not self._over():
            with reading(self.service.database) as connection:
                layers, place = list_brewed_here(connection, self.service.tables, after=place, limit=_BATCH)
            self._queue(self._lost(layers, pool))
            if layers:
                # Digests are spread evenly.
                done = position_of(Digest.parse(layers[-1].digest))
                progress.estimate(round(self.summary.looked / max(done, 1e-9)))
            progress.step(len(layers), note=f"{self.summary.queued} lost")

    def _over(self) -> bool:
        self.summary.interrupted = self.summary.interrupted or self.service.stop.is_set()
        return self.summary.interrupted or self.summary.broken is not None

    def _lost(self, layers: Sequence[BrewedLayer], pool: ThreadPoolExecutor) -> list[BrewedLayer]:
        """Those of the layers whose metainfo is not in the store, as far as the search gets."""
        looks = [(layer, pool.submit(self._look, layer)) for layer in layers]
        lost = []
        for layer, look in looks:
            if self._over():
                look.cancel()
                continue
            try:
                is_there = look.result()
            except StoreFailed as error:
                self._not_answered(layer, error)
                continue
            self._silent = 0
            self.summary.looked += 1
            if not is_there:
                lost.append(layer)
        return lost

    def _look(self, layer: BrewedLayer) -> bool:
        try:
            self.service.store.get(Digest.parse(layer.digest))
        except MetainfoMissing:
            return False
        return True

    def _not_answered(self, layer: BrewedLayer, error: StoreFailed) -> None:
        """Counts a layer of which the store does not say, and notices a store that answers no more."""
        self.summary.failed += 1
        self._silent += 1
        log.warning("metainfo not looked for digest=%s reason=%s", layer.digest, error)
        if self._silent >= _ENOUGH_SILENCE:
            self.summary.broken = str(error)

    def _queue(self, lost: Sequence[BrewedLayer]) -> None:
        service = self.service
        if not lost:
            return
        with transaction(service.database) as connection:
            self.summary.queued += requeue_brewed(
                connection, service.tables, lost, priority=Priority.BACKFILLED, now=service.now()
            )
        for layer in lost:
            log.info("metainfo lost, layer queued digest=%s", layer.digest)
