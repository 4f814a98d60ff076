"""The locks a brewer holds: renewed while it works, and the only way to finish a layer."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sqlalchemy import Connection, Engine

from sql.claims import Claim, give_back_layers, renew_locks
from sql.errors import DatabaseDown
from sql.tables import Tables
from sql.transaction import transaction

log = logging.getLogger(__name__)

_PAUSE = 1.0
"""Seconds between tries to finish a layer while the database is down."""


class HeldLocks:
    """Claims by digest, each with its newest token. Threads may call any method.

    A lock that was not renewed for `expires` seconds may be freed by `release-locks`; whether it was, only
    the database tells.
    """

    def __init__(self, engine: Engine, tables: Tables, clock: Callable[[], float], expires: float) -> None:
        self._engine = engine
        self._tables = tables
        self._clock = clock
        self._expires = expires
        self._claims: dict[str, Claim] = {}
        self._changing = threading.Lock()
        self._renewing = threading.Lock()
        self._next_renewal = time.monotonic() + expires / 3
        self._closed = threading.Event()

    def add(self, claims: list[Claim]) -> None:
        """Holds `claims`, just made."""
        with self._changing:
            self._claims.update((claim.digest, claim) for claim in claims)

    def claim(self, digest: str) -> Claim | None:
        """The claim in force on `digest`, or None if it is not held any more."""
        return self._claims.get(digest)

    def renew_if_due(self) -> None:
        """Renews every lock once a third of `expires` has passed; a dead database is only logged."""
        if time.monotonic() < self._next_renewal:
            return
        self._next_renewal = time.monotonic() + self._expires / 3
        try:
            with self._renewing:
                self._renew()
        except DatabaseDown as error:
            log.warning("locks not renewed reason=%s", error)
            self._next_renewal = time.monotonic() + min(_PAUSE, self._expires / 3)

    def _renew(self) -> None:
        before = list(self._claims.values())
        with transaction(self._engine) as connection:
            renewed = renew_locks(connection, self._tables, before, now=int(self._clock()))
        newer = {claim.digest: claim for claim in renewed}
        with self._changing:
            # A worker may have finished one since: what is gone stays gone.
            for claim in before:
                if self._claims.get(claim.digest) is claim and claim.digest in newer:
                    self._claims[claim.digest] = newer[claim.digest]

    def finish(self, digest: str, act: Callable[[Connection, Claim], bool]) -> bool:
        """Runs `act` in a transaction with the claim in force; True if it was done.

        `act` says whether the row still had the claim's token. While the database is down it is tried
        again until it is back, or the locks are given back. False, and a log line, if the lock was lost.
        """
        waited = False
        while (claim := self._claims.get(digest)) is not None:
            try:
                with transaction(self._engine) as connection:
                    done = act(connection, claim)
            except DatabaseDown as error:
                if not waited:
                    waited = True
                    log.warning("layer waits for the database digest=%s reason=%s", digest, error)
                if self._closed.wait(_PAUSE):
                    log.warning("layer not finished digest=%s reason=%s", digest, error)
                    return self._forget(digest)
                continue
            if done:
                self._forget(digest)
                return True
            with self._renewing:
                # A renewal under way when the token was compared has ended now.
                if self._claims.get(digest) is claim:
                    log.warning("lock lost, somebody else brews it digest=%s", digest)
                    return self._forget(digest)
        return False

    def _forget(self, digest: str) -> bool:
        with self._changing:
            self._claims.pop(digest, None)
        return False

    def give_back(self) -> int:
        """Gives every lock back, attempts unchanged; the number of them. For a brewer that stops.

        If the database is down they stay locked until `release-locks` frees them.
        """
        self._closed.set()
        with self._renewing, self._changing:
            claims, self._claims = list(self._claims.values()), {}
        if not claims:
            return 0
        try:
            with transaction(self._engine) as connection:
                return give_back_layers(connection, self._tables, claims)
        except DatabaseDown as error:
            log.warning("locks not given back number=%d reason=%s", len(claims), error)
            return 0
