"""Brewed layers whose metainfo is lost are found and queued, and no others."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from core.digest import Digest
from core.errors import StoreFailed
from core.layer import Layer
from core.torrents.store import DirectoryStore, MetainfoStore
from jobs.queue_lost import LostSummary, queue_lost
from sql.engine import create_engine_for
from sql.legacy_ids import LegacyId, adopt_legacy_ids
from sql.tables import Priority
from sql.transaction import transaction
from tests.integration.sql.database import NOW, Database, digest_of, rbtorrent_id_of
from tests.services import service_of


@dataclass
class Brewed:
    """Brewed layers, and the store of their metainfo."""

    database: Database
    store: DirectoryStore
    stop: threading.Event = field(default_factory=threading.Event)

    def layers(self, number: int) -> list[Digest]:
        digests = sorted(digest_of(name) for name in range(number))
        self.database.enqueue_all([Layer(digest, ("team/app",), 100) for digest in digests], now=NOW - 100)
        for claim in self.database.claim(number, now=NOW - 100):
            assert self.database.complete(claim, now=NOW - 100)
            self.store.put(claim.digest, b"the metainfo")
        return digests

    def lose(self, *digests: Digest) -> None:
        for digest in digests:
            self.store.delete(digest)

    def search(self, store: MetainfoStore | None = None) -> LostSummary:
        database = self.database
        parts = {"store": store or self.store, "clock": lambda _: NOW, "stop": self.stop}
        return queue_lost(service_of(database.engine, database.tables, parts=parts))

    def waiting(self) -> set[Digest]:
        rows = self.database.mapping().values()
        return {Digest.parse(row.digest) for row in rows if row.brewed is None}


@pytest.fixture
def brewed(database_url: str, tmp_path: Path) -> Iterator[Brewed]:
    engine = create_engine_for(url=database_url)
    yield Brewed(Database.created(engine), DirectoryStore(tmp_path / "metainfo"))
    engine.dispose()


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.queue_lost._BATCH", 7)


class StoreOf:
    """A store whose reading a test takes over; `down` is what checking it raises."""

    def __init__(
        self, store: MetainfoStore, read: Callable[[Digest], object], down: StoreFailed | None = None
    ) -> None:
        self._store = store
        self._read = read
        self._down = down

    def get(self, digest: Digest) -> bytes:
        self._read(digest)
        return self._store.get(digest)

    def put(self, digest: Digest, data: bytes) -> None:
        self._store.put(digest, data)

    def delete(self, digest: Digest) -> None:
        self._store.delete(digest)

    def check(self) -> str:
        if self._down is not None:
            raise self._down
        return "a store"


def test_layers_whose_metainfo_is_lost_are_queued_last(brewed: Brewed) -> None:
    digests = brewed.layers(40)
    brewed.lose(*digests[::3])

    summary = brewed.search()

    assert str(summary) == "queued again 14, looked up 40 torrents, failed 0"
    assert brewed.waiting() == set(digests[::3])
    assert brewed.database.status().waiting[Priority.BACKFILLED] == 14
    assert brewed.search().queued == 0


def test_a_store_that_lost_everything_has_everything_brewed_again(brewed: Brewed) -> None:
    digests = brewed.layers(20)
    brewed.lose(*digests)
    assert brewed.search().queued == 20
    assert {claim.digest for claim in brewed.database.claim(20)} == set(digests)


def test_ids_of_an_older_service_are_not_lost_torrents(brewed: Brewed) -> None:
    brewed.layers(10)
    old = [digest_of(f"old {number}") for number in range(20)]
    brewed.database.enqueue(*old[:5])
    for claim in brewed.database.claim(2):
        brewed.database.set_aside(claim)
    made = [LegacyId(digest, rbtorrent_id_of(digest)) for digest in old]
    with transaction(brewed.database.engine) as connection:
        outcomes = adopt_legacy_ids(connection, brewed.database.tables, made, now=NOW)
    assert set(outcomes.values()) == {"taken"}

    summary = brewed.search()

    assert (summary.looked_up, summary.queued, summary.failed) == (10, 0, 0)
    assert brewed.waiting() == set()


def test_layers_waiting_or_set_aside_are_not_checked(brewed: Brewed) -> None:
    brewed.layers(3)
    brewed.database.enqueue(digest_of("aside"))
    brewed.database.set_aside(brewed.database.claim_one())
    brewed.database.enqueue(digest_of("waiting"))
    assert brewed.search().looked_up == 3
    assert brewed.database.layer(digest_of("aside")).state == "set aside"


def test_a_search_that_is_interrupted_keeps_what_it_queued(brewed: Brewed) -> None:
    digests = brewed.layers(60)
    brewed.lose(*digests)
    looked: list[Digest] = []

    def stop(digest: Digest) -> None:
        looked.append(digest)
        if len(looked) == 20:
            brewed.stop.set()

    summary = brewed.search(StoreOf(brewed.store, stop))

    assert str(summary).endswith(", interrupted: run it again")
    assert 0 < summary.queued < 60
    assert len(brewed.waiting()) == summary.queued
    brewed.stop.clear()
    assert summary.queued + brewed.search().queued == 60


def test_metainfo_that_the_store_cannot_check_is_not_lost(brewed: Brewed) -> None:
    digests = brewed.layers(60)
    brewed.lose(*digests[:20])
    silent = set(digests[10:45])

    def read(digest: Digest) -> None:
        if digest in silent:
            raise StoreFailed("s3://metainfo", "slow down")

    summary = brewed.search(StoreOf(brewed.store, read))

    assert str(summary) == "queued again 10, looked up 25 torrents, failed 35"
    assert brewed.waiting() == set(digests[:10])


def test_a_store_that_stops_answering_ends_the_search(brewed: Brewed) -> None:
    digests = brewed.layers(100)
    brewed.lose(*digests)

    denied = StoreFailed("s3://metainfo", "access denied")

    def read(digest: Digest) -> None:
        raise denied

    summary = brewed.search(StoreOf(brewed.store, read, denied))

    assert "stopped, run it again: metainfo store s3://metainfo failed: access denied" in str(summary)
    assert 0 < summary.failed < 100
    assert brewed.waiting() == set()
