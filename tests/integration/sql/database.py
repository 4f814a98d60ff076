"""A database under test: each call is a separate transaction, with defaults for most arguments."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import sqlalchemy as sa

from core.digest import Digest
from core.layer import Layer
from sql.claims import (
    Claim,
    claim_layers,
    complete_layer,
    fail_layer,
    renew_locks,
    return_layers,
)
from sql.enqueue import adopt_layers, enqueue_layers
from sql.layers import LayerRecord, find_layer
from sql.requeue import drop_layers, retry_failed_layers
from sql.schema import create_missing
from sql.stale_locks import bring_forward, release_future_locks, release_stale_locks
from sql.status import QueueStatus, queue_status
from sql.tables import Priority, Tables, build_tables
from sql.transaction import transaction

# Later than 2038, so that 32 bits are too few.
NOW = 4_000_000_000


def digest_of(name: str | int) -> Digest:
    """Return the digest of a name."""
    return Digest(hashlib.sha256(str(name).encode()).hexdigest())


def rbtorrent_id_of(digest: Digest | str) -> str:
    """Return the id that tests give a layer."""
    return "rbtorrent:" + hashlib.sha1(str(digest).encode()).hexdigest()


@dataclass(frozen=True)
class Database:
    """An engine and the tables in it."""

    engine: sa.Engine
    tables: Tables

    @classmethod
    def created(cls, engine: sa.Engine, mapping: str = "rbtorrent_mapping") -> Database:
        """Return a database with all its tables."""
        database = cls(engine, build_tables(mapping))
        with transaction(engine) as connection:
            create_missing(connection, database.tables)
        return database

    def execute(self, statement: str) -> None:
        """Execute SQL, as an operator might."""
        with transaction(self.engine) as connection:
            connection.exec_driver_sql(statement)

    def enqueue(
        self,
        *digests: Digest | str,
        size: int | None = None,
        scope: str | None = "library/ubuntu",
        priority: Priority = Priority.PUSHED,
        now: int = NOW,
    ) -> int:
        scopes = () if scope is None else (scope,)
        return self.enqueue_all(
            [Layer(Digest.parse(str(digest)), scopes, size) for digest in digests], priority, now
        )

    def enqueue_all(
        self, layers: Iterable[Layer], priority: Priority = Priority.PUSHED, now: int = NOW
    ) -> int:
        with transaction(self.engine) as connection:
            return enqueue_layers(connection, self.tables, list(layers), priority=priority, now=now)

    def adopt(self, *, now: int = NOW, limit: int = 1000) -> int:
        with transaction(self.engine) as connection:
            return adopt_layers(connection, self.tables, now=now, limit=limit)

    def claim(self, limit: int = 10, *, now: int = NOW, brewer: str = "host:1") -> list[Claim]:
        with transaction(self.engine) as connection:
            return claim_layers(connection, self.tables, now=now, limit=limit, brewer=brewer)

    def claim_one(self, *, now: int = NOW, brewer: str = "host:1") -> Claim:
        [claim] = self.claim(1, now=now, brewer=brewer)
        return claim

    def renew(self, claims: Iterable[Claim], *, now: int) -> list[Claim]:
        with transaction(self.engine) as connection:
            return renew_locks(connection, self.tables, list(claims), now=now)

    def complete(
        self, claim: Claim, *, rbtorrent_id: str | None = None, size: int = 1000, now: int = NOW
    ) -> bool:
        with transaction(self.engine) as connection:
            return complete_layer(
                connection,
                self.tables,
                claim,
                rbtorrent_id=rbtorrent_id or rbtorrent_id_of(claim.digest),
                size=size,
                now=now,
            )

    def retry(
        self, claim: Claim, *, reason: str = "the source is slow", next_try: int = NOW, now: int = NOW
    ) -> bool:
        with transaction(self.engine) as connection:
            return fail_layer(connection, self.tables, claim, reason=reason, next_try=next_try, now=now)

    def set_aside(self, claim: Claim, *, reason: str = "no blob there", now: int = NOW) -> bool:
        with transaction(self.engine) as connection:
            return fail_layer(connection, self.tables, claim, reason=reason, next_try=None, now=now)

    def return_claims(self, claims: Iterable[Claim]) -> int:
        with transaction(self.engine) as connection:
            return return_layers(connection, self.tables, list(claims))

    def release(self, *, older_than: int, max_attempts: int = 5) -> int:
        with transaction(self.engine) as connection:
            return release_stale_locks(
                connection, self.tables, older_than=older_than, max_attempts=max_attempts, now=older_than
            )

    def release_future(self, *, ahead: int) -> int:
        with transaction(self.engine) as connection:
            return release_future_locks(connection, self.tables, ahead=ahead)

    def bring_forward(self, *, latest: int, now: int = NOW) -> int:
        with transaction(self.engine) as connection:
            return bring_forward(connection, self.tables, latest=latest, now=now)

    def retry_failed_layers(self, *, reason_like: str | None = None, digest: Digest | None = None) -> int:
        with transaction(self.engine) as connection:
            return retry_failed_layers(connection, self.tables, reason_like=reason_like, digest=digest)

    def drop(self, *, reason_like: str | None = None, digest: Digest | None = None) -> int:
        with transaction(self.engine) as connection:
            return drop_layers(connection, self.tables, reason_like=reason_like, digest=digest)

    def layer(self, digest: Digest | str, *, now: int = NOW) -> LayerRecord:
        with transaction(self.engine) as connection:
            found = find_layer(connection, self.tables, Digest.parse(str(digest)), now=now)
        assert found is not None, f"{digest} is not in the mapping"
        return found

    def status(self, *, now: int = NOW) -> QueueStatus:
        with transaction(self.engine) as connection:
            return queue_status(connection, self.tables, now=now)

    def mapping(
        self,
    ) -> dict[str, sa.Row[tuple[str, str | None, int | None, int | None, int | None]]]:
        """Return the mapping's rows by digest."""
        with transaction(self.engine) as connection:
            return {row.digest: row for row in connection.execute(sa.select(self.tables.mapping))}
