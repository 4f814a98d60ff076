"""The locks of a brewer: renew them while it works, and finish layers under them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from sqlalchemy import Connection, Engine

from core.digest import Digest
from core.errors import DatabaseDown
from core.logs import OutageLog
from sql.claims import Claim, renew_locks, return_layers
from sql.tables import Tables
from sql.transaction import Clock, transaction

log = logging.getLogger(__name__)

_PAUSE = 1.0
"""Seconds between attempts to finish a layer while the database is down."""


class HeldLocks:
    """Claims by digest, each with its newest token. Threads may call any method.

    A lock that was not renewed for `expires` seconds may be released by `release-locks`; only the database
    knows whether it was. `outage` logs that the database is down.
    """

    def __init__(
        self,
        engine: Engine,
        tables: Tables,
        clock: Clock,
        expires: float,
        outage: OutageLog,
    ) -> None:
        self._engine = engine
        self._tables = tables
        self._clock = clock
        self._expires = expires
        self._outage = outage
        self._claims: dict[Digest, Claim] = {}
        self._changing = threading.Lock()
        self._renewing = threading.Lock()
        self._next_renewal = time.monotonic() + expires / 3
        self._closed = threading.Event()

    def add(self, claims: list[Claim]) -> None:
        """Hold new `claims`."""
        with self._changing:
            self._claims.update((claim.digest, claim) for claim in claims)

    def claim(self, digest: Digest) -> Claim | None:
        """Return the current claim on `digest`, None if it is no longer held."""
        return self._claims.get(digest)

    def renew_if_due(self) -> None:
        """Renew every lock once a third of `expires` has passed. If the database is down, this is only
        logged.
        """
        if time.monotonic() < self._next_renewal:
            return
        self._next_renewal = time.monotonic() + self._expires / 3
        try:
            with self._renewing:
                self._renew()
            self._outage.succeeded()
        except DatabaseDown as error:
            self._outage.failed(error)
            self._next_renewal = time.monotonic() + min(_PAUSE, self._expires / 3)

    def _renew(self) -> None:
        before = list(self._claims.values())
        with transaction(self._engine) as connection:
            renewed = renew_locks(connection, self._tables, before, now=self._clock(connection))
        newer = {claim.digest: claim for claim in renewed}
        with self._changing:
            # A worker may have finished one meanwhile: do not hold it again.
            for claim in before:
                if self._claims.get(claim.digest) is claim and claim.digest in newer:
                    self._claims[claim.digest] = newer[claim.digest]

    def finish(self, digest: Digest, act: Callable[[Connection, Claim], bool]) -> bool:
        """Run `act` in a transaction with the current claim. Return whether it was done.

        `act` returns whether the row still had the claim's token. While the database is down it is
        retried until the locks are returned. A lock that was lost is logged.
        """
        while (claim := self._claims.get(digest)) is not None:
            try:
                with transaction(self._engine) as connection:
                    done = act(connection, claim)
                self._outage.succeeded()
            except DatabaseDown as error:
                self._outage.failed(error)
                if self._closed.wait(_PAUSE):
                    log.warning("layer not finished digest=%s reason=%s", digest, error)
                    self._forget(digest)
                continue
            if done:
                self._forget(digest)
                return True
            with self._renewing:
                # A renewal that was in progress when the token was compared has ended now.
                if self._claims.get(digest) is claim:
                    log.warning("lock lost to another brewer digest=%s", digest)
                    self._forget(digest)
        return False

    def _forget(self, digest: Digest) -> None:
        with self._changing:
            self._claims.pop(digest, None)

    def return_claims(self, digests: Sequence[Digest]) -> int:
        """Unlock these layers, attempts unchanged. Return how many were still held.

        If the database is down they stay locked until `release-locks` releases them.
        """
        with self._renewing, self._changing:
            claims = [claim for digest in digests if (claim := self._claims.pop(digest, None)) is not None]
        if not claims:
            return 0
        try:
            with transaction(self._engine) as connection:
                return return_layers(connection, self._tables, claims)
        except DatabaseDown as error:
            self._outage.failed(error)
            log.warning("locks not returned, release-locks will free them number=%d", len(claims))
            return 0

    def close(self) -> int:
        """Return all locks. Return how many were still held."""
        self._closed.set()
        return self.return_claims(list(self._claims))
