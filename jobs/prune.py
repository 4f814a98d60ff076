"""Remove layers that the registry no longer has, and their metainfo."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from core.blobs.presence import MAX_CONSECUTIVE_FAILURES, PresenceResult
from core.digest import Digest
from core.errors import StoreFailed
from core.failures import FailureStreak
from core.layer import Layer
from jobs.service import Service
from sql.history import find_cursor, save_cursor
from sql.manifests import forget_seen
from sql.missing_layers import (
    Suspect,
    clear_suspects,
    due_suspects,
    filter_suspects,
    forget_layer,
    list_forgettable_layers,
    postpone_suspects,
    record_misses,
)
from sql.scopes import find_scopes, remember_scopes
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

_JOB = "prune"
_BATCH = 500
_RETRY_SECONDS = 3600
"""Seconds after which a suspect without an answer is checked again."""

_READ_AGAIN = 30 * 86_400
"""Seconds after which a manifest no longer counts as read; a scan then reads it again."""

_MAX_READ_AGAIN = 10_000
"""The most such manifests in a run, so that no scan has to read all of them at once."""


@dataclass
class PruneSummary:
    """The results of a run: layers that were found (`there`); `missed` for the first time; `forgotten`;
    `unanswered`, which could not be checked; `failed`, whose metainfo could not be deleted. `paused` is why
    the registry or the storage stopped answering, which ended the run.
    """

    dry_run: bool = False
    there: int = 0
    missed: int = 0
    forgotten: int = 0
    unanswered: int = 0
    failed: int = 0
    interrupted: bool = False
    paused: str | None = None

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.missed or self.forgotten or self.unanswered or self.failed)

    def __str__(self) -> str:
        verb = "would forget" if self.dry_run else "forgot"
        paused = f", paused: {self.paused}" if self.paused else ""
        total = self.there + self.missed + self.forgotten + self.unanswered + self.failed
        return (
            f"{verb} {self.forgotten}, missed for the first time {self.missed}, there {self.there}, "
            f"unanswered {self.unanswered}, failed {self.failed}, looked up {total}"
            f"{', interrupted' if self.interrupted else ''}{paused}"
        )


def prune(service: Service, *, dry_run: bool = False) -> PruneSummary:
    """Check that layers exist: first those reported or suspected missing, then all of them in turn.

    A layer that is missing from its repositories is a suspect until `grace` is over. Then all repositories
    are checked, and only a layer that none of them has is forgotten. Layers that wait or are being brewed are
    kept; those set aside are pruned like brewed ones. Without a clear answer a layer is kept. Manifests that
    were read long ago are forgotten too, as deleted ones are not reported. Raises DatabaseDown, and what the
    presence's check raises.
    """
    service.presence.check()
    return _Run(service, dry_run).run()


class _Run:
    def __init__(self, service: Service, dry_run: bool) -> None:
        self.service = service
        # The reader determines which tables exist.
        self.engine = service.reader if dry_run else service.database
        self.tables = service.tables
        self.dry_run = dry_run
        self.grace = service.config.jobs.prune.grace
        self.limit = service.config.jobs.prune.limit
        self.summary = PruneSummary(dry_run=dry_run)
        self._streak = FailureStreak(service.presence.check, MAX_CONSECUTIVE_FAILURES)
        self._checked: set[Digest] = set()

    def run(self) -> PruneSummary:
        """Check suspects for up to half of the run, so that the round always advances, then other layers.

        Missing answers for some layers end the run, not the round: the next run begins after them.
        """
        with reading(self.engine) as connection:
            now = self.service.now(connection)
            due = due_suspects(connection, self.tables, now=now, limit=max(1, self.limit // 2))
        missed = [(suspect, suspect.missed + self.grace) for suspect in due if suspect.missed is not None]
        self._recheck([suspect for suspect, due_at in missed if due_at <= now])
        # `grace` was increased since they were missed.
        self._wait_for({suspect.digest: due_at for suspect, due_at in missed if due_at > now})
        self._check_layers([suspect.digest for suspect in due if suspect.missed is None])
        self._continue_round(self.limit - len(due))
        self._forget_seen()
        self.summary.interrupted = self.service.stop.is_set()
        return self.summary

    def _over(self) -> bool:
        return self.service.stop.is_set() or self.summary.paused is not None

    def _recheck(self, missed: Sequence[Suspect]) -> None:
        """Check suspects again, in their repositories and then in all. Forget those that are not found."""
        suspects = {suspect.digest: suspect for suspect in missed}
        results = self._locate(suspects)
        for result in self._everywhere([result.layer for result in results if result.presence == "missing"]):
            results.append(result)
            if result.presence == "missing" and not self.service.stop.is_set():
                self._forget(suspects[result.layer.digest])
        self._settle(result for result in results if result.presence != "missing")

    def _everywhere(self, layers: list[Layer]) -> Iterable[PresenceResult]:
        if not layers or self._over():
            return
        for result in self.service.presence.locate_everywhere(layers, self.service.stop.is_set):
            self._note(result)
            yield result

    def _check_layers(self, digests: Sequence[Digest]) -> str | None:
        """Check layers in their repositories, and suspect missing ones. Return the last layer checked."""
        results = self._locate(digests)
        self._settle(result for result in results if result.presence != "missing")
        missing = [result.layer.digest for result in results if result.presence == "missing"]
        self.summary.missed += len(missing)
        if missing and not self.dry_run:
            with transaction(self.engine) as connection:
                now = self.service.now(connection)
                record_misses(connection, self.tables, missing, now=now, due=now + self.grace)
        return str(results[-1].layer.digest) if results else None

    def _continue_round(self, limit: int) -> None:
        """Continue where the last run ended, up to the end of the layers."""
        with reading(self.engine) as connection:
            cursor: str | None = find_cursor(connection, self.tables, _JOB)
        while cursor is not None and limit > 0 and not self._over():
            with reading(self.engine) as connection:
                digests, behind = list_forgettable_layers(
                    connection, self.tables, after=cursor, limit=min(limit, _BATCH)
                )
                suspects = filter_suspects(connection, self.tables, digests)
            last = self._check_layers(
                [digest for digest in digests if digest not in suspects | self._checked]
            )
            limit -= _BATCH
            cursor = (last or cursor) if self._over() else behind
            if not self.dry_run:
                with transaction(self.engine) as connection:
                    save_cursor(connection, self.tables, _JOB, cursor or "")

    def _forget_seen(self) -> None:
        if self.dry_run or self.service.stop.is_set():
            return
        with transaction(self.engine) as connection:
            old = self.service.now(connection) - _READ_AGAIN
            number = forget_seen(connection, self.tables, older_than=old, limit=_MAX_READ_AGAIN)
        if number:
            log.info("manifests read long ago will be read again number=%d", number)

    def _wait_for(self, times: dict[Digest, int]) -> None:
        if times and not self.dry_run:
            with transaction(self.engine) as connection:
                for digest, due in sorted(times.items()):
                    postpone_suspects(connection, self.tables, [digest], due=due)

    def _locate(self, digests: Iterable[Digest]) -> list[PresenceResult]:
        """Return the results of checking each layer in its repositories, until the run is over."""
        digests = list(digests)
        self._checked.update(digests)
        with reading(self.engine) as connection:
            scopes = find_scopes(connection, self.tables, digests)
        results = []
        for digest in digests:
            if self._over():
                break
            result = self.service.presence.locate(Layer(digest, scopes.get(digest, ())))
            self._note(result)
            results.append(result)
        return results

    def _note(self, result: PresenceResult) -> None:
        if result.error is None:
            self._streak.succeeded()
        elif self._streak.failed(result.error):
            self.summary.paused = str(result.error)

    def _settle(self, results: Iterable[PresenceResult]) -> None:
        """Count the layers that are not missing, and record the results."""
        there, unanswered, found = [], [], []
        for result in results:
            digest = result.layer.digest
            if result.presence == "there":
                there.append(digest)
                if result.scope is not None:
                    found.append((digest, result.scope))
            else:
                unanswered.append(digest)
                log.warning("layer not looked up digest=%s reason=%s", digest, result.error)
        self.summary.there += len(there)
        self.summary.unanswered += len(unanswered)
        if self.dry_run or not (there or unanswered):
            return
        tables = self.tables
        with transaction(self.engine) as connection:
            clear_suspects(connection, tables, there)
            due = self.service.now(connection) + _RETRY_SECONDS
            postpone_suspects(connection, tables, unanswered, due=due)
            remember_scopes(connection, tables, found)

    def _forget(self, suspect: Suspect) -> None:
        """Forget a layer and its metainfo, unless it has changed since it was checked."""
        if self.dry_run:
            self.summary.forgotten += 1
            log.info(
                "layer would be forgotten digest=%s missed_since=%d", suspect.digest, suspect.missed or 0
            )
            return
        try:
            with transaction(self.engine) as connection:
                if not forget_layer(connection, self.tables, suspect):
                    log.info("layer pushed or brewed again meanwhile digest=%s", suspect.digest)
                    self.summary.there += 1
                    return
                # Before the commit: afterwards the layer may be brewed again, with new metainfo. If
                # the commit fails, the layer is without metainfo until the next run forgets it.
                self.service.store.delete(suspect.digest)
        except StoreFailed as error:
            self.summary.failed += 1
            log.error("layer not forgotten digest=%s reason=%s", suspect.digest, error)
        else:
            self.summary.forgotten += 1
            log.info("layer forgotten digest=%s missed_since=%d", suspect.digest, suspect.missed)
