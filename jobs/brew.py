"""Brews what waits: claims chunks, works on them in threads, finishes each layer by itself."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Connection, Engine

from core.backoff import delay_after
from core.blobs.source import BlobSource
from core.digest import Digest
from core.errors import DockerTorrentsError, Interrupted, SizeMismatch, Verdict
from core.layer import LayerRef
from core.torrents.brewing import Brewed, brew_layer
from core.torrents.store import MetainfoStore
from jobs.held_locks import HeldLocks
from jobs.release_locks import release_locks
from sql.claims import Claim, claim_layers, complete_layer, retry_layer, set_aside_layer
from sql.enqueue import adopt_layers
from sql.errors import DatabaseDown, SqlError
from sql.status import count_waiting
from sql.tables import Tables
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

_GRACE = 5.0
"""Seconds that a stopping run waits for its threads; what they hold is given back before."""

_TICK = 0.2
"""Seconds after which a waiting run looks at `stop` and at its locks."""


@dataclass(frozen=True)
class Brewery:
    """What a run needs. Times are seconds; `clock` gives Unix time; `brewer` is shown to operators."""

    engine: Engine
    tables: Tables
    source: BlobSource
    store: MetainfoStore
    brewer: str
    private: bool = True
    workers: int = 4
    connections: int = 8
    layers_per_chunk: int = 10
    brew_discard_timeout: int = 300
    sleep_time: float = 10.0
    max_attempts: int = 8
    clock: Callable[[], float] = time.time


@dataclass
class BrewSummary:
    """What a run did, in layers; `waiting` is None if the database did not say at the end."""

    brewed: int = 0
    failed: int = 0
    given_back: int = 0
    waiting: int | None = 0

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.brewed or self.failed or self.given_back)

    def __str__(self) -> str:
        back = f", given back {self.given_back}" if self.given_back else ""
        waiting = "unknown" if self.waiting is None else self.waiting
        return f"brewed {self.brewed}, failed {self.failed}{back}, waiting {waiting}"


def brew(brewery: Brewery, stop: threading.Event) -> BrewSummary:
    """Brews until nothing waits or `stop` is set. Raises DatabaseDown if the first claim cannot be made.

    Before all, locks of brewers that have vanished are released, as by the job of that name.
    No more than `layers_per_chunk` layers are locked at once. While full chunks come back the next is
    claimed as soon as a worker would be idle, so that one long layer does not hold up the others.
    When `stop` is set, what is locked is given back at once.
    """
    return _Run(brewery, stop).go()


_Outcome = Brewed | Literal["failed", "not ours"]


class _Run:
    """One run: the calling thread claims and renews, `workers` daemon threads brew.

    They are daemons because a read may block for as long as the source's time-out, and a brewer that
    was told to stop has given its locks back by then: nothing is lost with the thread.
    """

    def __init__(self, brewery: Brewery, stop: threading.Event) -> None:
        self.brewery = brewery
        self.stop = stop
        self.summary = BrewSummary()
        self.todo: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[_Outcome] = queue.SimpleQueue()
        self.held = HeldLocks(
            brewery.engine, brewery.tables, brewery.clock, expires=brewery.brew_discard_timeout
        )
        self.threads: list[threading.Thread] = []
        self.in_work = 0
        self.look_again = 0.0
        self.over = False

    def go(self) -> BrewSummary:
        try:
            self._release()
            self._claim()
            while self.in_work and not self.stop.is_set():
                self._collect(timeout=_TICK)
                self.held.renew_if_due()
                if self.in_work < self.brewery.workers and time.monotonic() >= self.look_again:
                    self._claim_or_log()
        finally:
            self._end()
        try:
            with reading(self.brewery.engine) as connection:
                self.summary.waiting = count_waiting(connection, self.brewery.tables)
        except DatabaseDown as error:
            self.summary.waiting = None
            log.warning("waiting layers not counted reason=%s", error)
        return self.summary

    def _release(self) -> None:
        brewery = self.brewery
        release_locks(
            brewery.engine,
            brewery.tables,
            now=int(brewery.clock()),
            brew_discard_timeout=brewery.brew_discard_timeout,
            max_attempts=brewery.max_attempts,
        )

    def _claim(self) -> None:
        """Locks layers until there are `layers_per_chunk`, and puts them to work."""
        brewery = self.brewery
        wanted = brewery.layers_per_chunk - self.in_work
        claims: list[Claim] = []
        with transaction(brewery.engine) as connection:
            claims = self._claim_up_to(connection, wanted)
            if len(claims) < wanted:
                # Rows put into the table by hand are looked for only when the queue runs dry.
                now = int(brewery.clock())
                if adopt_layers(connection, brewery.tables, now=now, limit=wanted):
                    claims += self._claim_up_to(connection, wanted - len(claims))
        self.look_again = time.monotonic() + (0.0 if len(claims) == wanted else brewery.sleep_time)
        self.held.add(claims)
        self.in_work += len(claims)
        for claim in claims:
            self.todo.put(claim.digest)
        while len(self.threads) < min(brewery.workers, self.in_work):
            name = f"brew-{len(self.threads)}"
            thread = threading.Thread(target=self._work, name=name, daemon=True)
            self.threads.append(thread)
            thread.start()

    def _claim_up_to(self, connection: Connection, limit: int) -> list[Claim]:
        brewery = self.brewery
        return claim_layers(
            connection, brewery.tables, now=int(brewery.clock()), limit=limit, brewer=brewery.brewer
        )

    def _claim_or_log(self) -> None:
        try:
            self._claim()
        except DatabaseDown as error:
            self.look_again = time.monotonic() + self.brewery.sleep_time
            log.warning("no layers claimed reason=%s", error)

    def _collect(self, timeout: float) -> None:
        """Waits for an outcome, at most `timeout` seconds, and counts all there are."""
        try:
            outcome = self.done.get(timeout=timeout)
            while True:
                self.in_work -= 1
                if isinstance(outcome, Brewed):
                    self.summary.brewed += 1
                elif outcome == "failed":
                    self.summary.failed += 1
                outcome = self.done.get_nowait()
        except queue.Empty:
            return

    def _end(self) -> None:
        self.over = True
        self.summary.given_back = self.held.give_back()
        for _ in self.threads:
            self.todo.put(None)
        deadline = time.monotonic() + _GRACE
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._collect(timeout=0)

    def _interrupted(self) -> bool:
        return self.over or self.stop.is_set()

    def _work(self) -> None:
        while (digest := self.todo.get()) is not None and not self._interrupted():
            try:
                outcome = self._brew(digest)
            except Exception:
                # Its lock is given back at the end of the run; the others go on.
                log.exception("layer not finished, a fault of ours digest=%s", digest)
                outcome = "failed"
            self.done.put(outcome)

    def _brew(self, digest: str) -> _Outcome:
        brewery = self.brewery
        claim = self.held.claim(digest)
        if claim is None:
            return "not ours"
        try:
            brewed = brew_layer(
                brewery.source,
                brewery.store,
                LayerRef(Digest.parse(digest), claim.scopes, claim.size),
                private=brewery.private,
                connections=brewery.connections,
                interrupted=self._interrupted,
            )
        except Interrupted:
            return "not ours"
        except SizeMismatch as error:
            if claim.size is None:
                return self._failed(claim, str(error), error.verdict)
            # Whoever pushed a manifest wrote that size. At the next try the digest alone decides.
            return self._failed(claim, str(error), "try again", forget_size=True)
        except DockerTorrentsError as error:
            return self._failed(claim, str(error), error.verdict)
        except DatabaseDown as error:
            return self._failed(claim, str(error), "try again")
        except Exception as error:
            log.exception("layer failed, a fault of ours digest=%s", digest)
            return self._failed(claim, f"{type(error).__name__}: {error}", "fault")

        def complete(connection: Connection, held: Claim) -> bool:
            now, tables = int(brewery.clock()), brewery.tables
            return complete_layer(
                connection, tables, held, rbtorrent_id=brewed.rbtorrent_id, size=brewed.size, now=now
            )

        try:
            if not self.held.finish(digest, complete):
                return "not ours"
        except SqlError as error:
            # Another layer has the id already: somebody has to look at that.
            return self._failed(claim, str(error), "set aside")
        log.info(
            "layer brewed digest=%s size=%d pieces=%d rbtorrent_id=%s seconds=%.3f",
            *(digest, brewed.size, brewed.pieces, brewed.rbtorrent_id, brewed.seconds),
        )
        return brewed

    def _failed(self, claim: Claim, reason: str, verdict: Verdict, *, forget_size: bool = False) -> _Outcome:
        """Counts the failure and records its reason: set aside, or tried again after a growing delay."""
        brewery = self.brewery
        attempts = claim.attempts + 1
        now = int(brewery.clock())
        last = verdict == "set aside" or attempts >= brewery.max_attempts
        next_try = now + delay_after(attempts)

        def record(connection: Connection, held: Claim) -> bool:
            if last:
                return set_aside_layer(connection, brewery.tables, held, reason=reason)
            return retry_layer(
                connection, brewery.tables, held, reason=reason, next_try=next_try, forget_size=forget_size
            )

        then = "set aside" if last else f"again in {next_try - now} s"
        log.warning(
            "layer failed digest=%s attempt=%d then=%s reason=%s", claim.digest, attempts, then, reason
        )
        return "failed" if self.held.finish(claim.digest, record) else "not ours"
