"""Brew one claimed layer and finish it: brewed, retried later, set aside, or returned."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Literal

from sqlalchemy import Connection

from core.digest import Digest
from core.errors import (
    NO_ANSWER,
    DatabaseError,
    DockerTorrentsError,
    Interrupted,
    NotFound,
    Refused,
    SizeMismatch,
    StoreFailed,
)
from core.failures import delay_after
from core.layer import Layer
from core.metrics import BREW_SECONDS, BREWED_BYTES, BREWS, PUSH_TO_ID_SECONDS
from core.torrents.brewing import Brewed, brew_layer
from jobs.dependency import Dependency, Probe
from jobs.held_locks import HeldLocks
from jobs.service import Service
from sql.claims import Claim, complete_layer, fail_layer
from sql.requeue import list_brewed_here
from sql.scopes import find_scopes
from sql.tables import Priority
from sql.transaction import reading

log = logging.getLogger(__name__)

_SAMPLES = 3
"""The number of brewed layers, chosen at random, read in a probe: in an outage the source returns none."""

_PAGE = 500
"""The number of rows in which they are looked up."""

_CANDIDATES = 30
"""The number of brewed layers of which some have a known repository."""


Outcome = Brewed | Literal["failed", "returned", "lost"]
"""The outcome for a layer; "lost" is one whose lock was lost, or is returned at the end of the run."""


class LayerBrewer:
    """Brews layers locked by `held`. Thread-safe. `interrupted` returns whether to stop working on a layer.

    A failure of the source or the store counts for the layer only if the source or store as a whole works.
    Otherwise it is an outage: layers go back to the queue without counting an attempt, until `resume` detects
    its end.
    """

    def __init__(self, service: Service, held: HeldLocks, interrupted: Callable[[], bool]) -> None:
        self._service = service
        self._config = service.config
        self._engine = service.database
        self._tables = service.tables
        self._source = service.source
        self._store = service.store
        self._outages = service.brew_outages
        self._held = held
        self._interrupted = interrupted

    @property
    def paused(self) -> str | None:
        """The outage for which layers are returned."""
        return self._outages.source.outage or self._outages.store.outage

    def resume(self) -> bool:
        """Probe what was down. Return whether everything works."""
        source = self._outages.source.resume(self._probe_source)
        store = self._outages.store.resume(self._store.check)
        return source and store

    def probe_store(self) -> bool:
        """Pause if the metainfo store accepts no writes, before reading layers needlessly. Return whether it
        accepts them.
        """
        return not self._outages.store.is_down(self._store.check)

    def _probe_source(self) -> None:
        """Raise DockerTorrentsError if the source is down.

        A registry whose storage is down still answers, but returns no blob: reading layers that were brewed
        before distinguishes that from a single unreadable layer.
        """
        try:
            self._source.check()
        except Refused as error:
            # S3 may refuse to list a bucket but return its objects.
            if error.status != 403:
                raise
        failures = []
        for layer in self._some_brewed():
            try:
                self._source.size(layer)
            except NO_ANSWER as error:
                failures.append(error)
            except DockerTorrentsError:
                return
            else:
                return
        if len(failures) == _SAMPLES:
            raise failures[0]

    def _some_brewed(self) -> list[Layer]:
        anywhere = Digest.PREFIX + secrets.token_hex(32)
        try:
            with reading(self._engine) as connection:
                pages = [
                    list_brewed_here(connection, self._tables, after=after, limit=_PAGE)[0]
                    for after in (anywhere, "")
                ]
                digests = list(dict.fromkeys(layer.digest for page in pages for layer in page))
                chosen = secrets.SystemRandom().sample(digests, min(_CANDIDATES, len(digests)))
                scopes = find_scopes(connection, self._tables, chosen)
        except DatabaseError:
            return []
        return [Layer(digest, scopes[digest]) for digest in chosen if digest in scopes][:_SAMPLES]

    def brew(self, digest: Digest) -> Outcome:
        """Brew the layer and finish it in the database."""
        outcome = self._brew(digest)
        if isinstance(outcome, Brewed):
            BREWS.count("brewed")
            BREWED_BYTES.count(self._config.layers.source, amount=outcome.size)
            BREW_SECONDS.count(self._config.layers.source, amount=outcome.seconds)
        else:
            BREWS.count(outcome)
        return outcome

    def _brew(self, digest: Digest) -> Outcome:
        claim = self._held.claim(digest)
        if claim is None:
            return "lost"
        if self.paused is not None:
            return self._return(claim)
        try:
            brewed = brew_layer(
                self._source,
                self._store,
                claim.layer,
                private=self._config.torrents.private,
                connections=self._config.layers.connections,
                interrupted=self._interrupted,
            )
        except Interrupted:
            return "lost"
        except SizeMismatch as error:
            if claim.layer.size is None:
                return self._failed(claim, str(error), permanent=True)
            # The size came from a manifest. At the next attempt only the digest is verified.
            return self._failed(claim, str(error), forget_size=True)
        except StoreFailed as error:
            return self._failed_by(claim, error, self._outages.store, self._store.check)
        except DockerTorrentsError as error:
            if error.permanent or isinstance(error, NotFound):
                return self._failed(claim, str(error), permanent=error.permanent)
            return self._failed_by(claim, error, self._outages.source, self._probe_source)
        except Exception as error:
            log.exception("layer failed, internal error digest=%s", digest)
            return self._failed(claim, f"{type(error).__name__}: {error}")
        return self._complete(claim, brewed)

    def _complete(self, claim: Claim, brewed: Brewed) -> Outcome:
        now = 0

        def complete(connection: Connection, held: Claim) -> bool:
            nonlocal now
            now = self._service.now(connection)
            return complete_layer(
                connection, self._tables, held, rbtorrent_id=brewed.rbtorrent_id, size=brewed.size, now=now
            )

        try:
            if not self._held.finish(claim.digest, complete):
                return "lost"
        except DatabaseError as error:
            # Another layer has this id already, which an operator must investigate.
            return self._failed(claim, str(error), permanent=True)
        if claim.priority == Priority.PUSHED:
            PUSH_TO_ID_SECONDS.observe(max(0, now - claim.added))
        log.info(
            "layer brewed digest=%s size=%d pieces=%d rbtorrent_id=%s seconds=%.3f",
            *(claim.digest, brewed.size, brewed.pieces, brewed.rbtorrent_id, brewed.seconds),
        )
        return brewed

    def _return(self, claim: Claim) -> Outcome:
        return "returned" if self._held.return_claims([claim.digest]) else "lost"

    def _failed_by(
        self, claim: Claim, error: DockerTorrentsError, dependency: Dependency, probe: Probe
    ) -> Outcome:
        """Return the layer if the source or the store as a whole is down, else count its failure."""
        if dependency.is_down(probe, error):
            return self._return(claim)
        return self._failed(claim, str(error))

    def _failed(
        self, claim: Claim, reason: str, *, permanent: bool = False, forget_size: bool = False
    ) -> Outcome:
        """Count the failure and record its reason: set aside, or retried after a growing delay."""
        attempts = claim.attempts + 1
        last = permanent or attempts >= self._config.brewer.max_attempts
        delay = delay_after(attempts)

        def record(connection: Connection, held: Claim) -> bool:
            now = self._service.now(connection)
            return fail_layer(
                connection,
                self._tables,
                held,
                reason=reason,
                next_try=None if last else now + delay,
                now=now,
                forget_size=forget_size,
            )

        next_step = "set aside" if last else f"again in {delay} s"
        log.warning(
            "layer failed digest=%s attempt=%d next=%s reason=%s", claim.digest, attempts, next_step, reason
        )
        return "failed" if self._held.finish(claim.digest, record) else "lost"
