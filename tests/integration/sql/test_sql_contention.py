"""Many brewers on one queue: no layer is brewed twice, lost or stuck."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress

import pytest

from core.errors import LayersDropped
from core.layer import Layer
from sql.tables import Priority
from tests.integration.sql.brewers import MANY, process_works_on, threads_work_on
from tests.integration.sql.database import NOW, Database, digest_of, rbtorrent_id_of

LAYERS = [digest_of(number) for number in range(200)]


def _each_is_brewed_once(database: Database, completed: Counter[str], digests: list[str]) -> None:
    assert completed == Counter(digests)
    mapping = database.mapping()
    assert {digest: row.rbtorrent_id for digest, row in mapping.items()} == {
        str(digest): rbtorrent_id_of(digest) for digest in digests
    }
    assert all(row.brew_lock is None and row.brewed is not None for row in mapping.values())


def test_threads_brew_each_layer_once(database: Database) -> None:
    database.enqueue(*LAYERS)
    completed = threads_work_on(database, range(8))
    _each_is_brewed_once(database, completed, LAYERS)


def test_processes_brew_each_layer_once(database: Database, engine_url: str) -> None:
    few = LAYERS[:80]
    database.enqueue(*few)
    # Not forked: this process has threads, and connections that must not be shared.
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(3, mp_context=spawned) as pool:
        working = [pool.submit(process_works_on, engine_url, seed, 3) for seed in range(3)]
        completed = sum((work.result() for work in working), Counter())
    _each_is_brewed_once(database, completed, few)


def test_claimers_at_the_same_moment_get_different_layers(database: Database) -> None:
    database.enqueue(*LAYERS)
    together = threading.Barrier(8)

    def claim(brewer: int) -> list[str]:
        together.wait()
        return [claim.digest for _ in range(5) for claim in database.claim(5, brewer=f"host:{brewer}")]

    with ThreadPoolExecutor(8) as pool:
        claimed = Counter(digest for digests in pool.map(claim, range(8)) for digest in digests)
    assert claimed == Counter(LAYERS)


def test_layers_requested_by_many_at_once_are_queued_once(database: Database) -> None:
    together = threading.Barrier(8)

    def enqueue(seed: int) -> tuple[int, dict[str, Priority]]:
        chance = random.Random(seed)
        queued, asked = 0, {}
        together.wait()
        for _ in range(10):
            priority = chance.choice(list(Priority))
            some = chance.sample(LAYERS, 60)
            queued += database.enqueue_all(
                [Layer(digest, (f"team/{seed}",), len(digest.hex)) for digest in some], priority, NOW
            )
            asked.update({digest: min(priority, asked.get(digest, priority)) for digest in some})
        return queued, asked

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(enqueue, range(8)))
    wanted: dict[str, Priority] = {}
    scopes: dict[str, set[str]] = {}
    for seed, (_, asked) in enumerate(results):
        for digest, priority in asked.items():
            wanted[digest] = min(priority, wanted.get(digest, priority))
            scopes.setdefault(digest, set()).add(f"team/{seed}")
    assert sum(queued for queued, _ in results) == len(wanted)
    claims = database.claim(1000)
    assert {claim.digest: claim.priority for claim in claims} == wanted
    assert {claim.digest: set(claim.layer.scopes) for claim in claims} == scopes


def test_callers_in_opposite_orders_do_not_deadlock(database: Database) -> None:
    many = [digest_of(number) for number in range(3_000)]
    together = threading.Barrier(4)

    def enqueue(seed: int) -> int:
        mine = random.Random(seed).sample(many, len(many))
        together.wait()
        return database.enqueue(*mine)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(enqueue, range(4))) == len(many)


def test_a_live_brewers_layers_are_never_released(database: Database) -> None:
    database.enqueue(*LAYERS[:5])
    claims = database.claim(5, now=NOW)
    renewed_at = NOW
    finished = threading.Event()

    def release() -> int:
        released = 0
        while not finished.is_set():
            # The locks are as old as this, or younger: a renewal may be under way.
            released += database.release(older_than=renewed_at)
        return released

    with ThreadPoolExecutor(2) as pool:
        releasing = [pool.submit(release) for _ in range(2)]
        for now in range(NOW + 1, NOW + 100):
            claims = database.renew(claims, now=now)
            assert len(claims) == 5
            renewed_at = now
        finished.set()
        assert [work.result() for work in releasing] == [0, 0]
    assert all(database.complete(claim) for claim in claims)


def test_a_brewer_that_lost_its_locks_writes_nothing(database: Database) -> None:
    """One renews too late and another has claimed the layers: exactly one of them finishes each."""
    database.enqueue(*LAYERS[:40])
    slow = database.claim(40, now=NOW, brewer="slow:1")
    together = threading.Barrier(2)

    def hurry() -> int:
        together.wait()
        return sum(database.complete(claim, rbtorrent_id=f"slow:{claim.digest}"[:60]) for claim in slow)

    def replace() -> int:
        together.wait()
        database.release(older_than=NOW + 1)
        claims = database.claim(40, now=NOW + 1, brewer="new:2")
        return sum(database.complete(claim, rbtorrent_id=f"new:{claim.digest}"[:60]) for claim in claims)

    with ThreadPoolExecutor(2) as pool:
        slow_ones, new_ones = pool.submit(hurry), pool.submit(replace)
        by_slow, by_new = slow_ones.result(), new_ones.result()
    # Free layers that were skipped because the slow brewer was still trying to finish them.
    by_new += sum(
        database.complete(claim, rbtorrent_id=f"new:{claim.digest}"[:60])
        for claim in database.claim(40, now=NOW + 2)
    )
    ids = Counter((row.rbtorrent_id or "").split(":")[0] for row in database.mapping().values())
    assert (ids["slow"], ids["new"]) == (by_slow, by_new)
    assert by_slow + by_new == 40


@pytest.mark.parametrize("seed", range(2))
def test_all_operations_on_the_queue_may_run_at_once(database: Database, seed: int) -> None:
    """No two statements deadlock: that would raise DatabaseDown, and not the
    LayersDropped of layers that are queued while they are dropped.
    """
    clock = itertools.count(NOW)
    layers = LAYERS[:40]
    database.enqueue(*layers)

    def disturb(number: int) -> None:
        chance = random.Random(seed * 100 + number)
        for _ in range(25):
            some = chance.sample(layers, 15)
            act = chance.randrange(7)
            if act <= 1:
                claims = database.renew(database.claim(9, now=next(clock)), now=next(clock))
                database.return_claims(claims[:4])
                for claim in claims[4:]:
                    database.set_aside(claim, reason=chance.choice(["one", "other"]))
            elif act == 2:
                with suppress(LayersDropped):
                    database.enqueue(*some, priority=chance.choice(list(Priority)), scope=f"team/{number}")
            elif act == 3:
                database.release(older_than=next(clock) - 20, max_attempts=MANY)
            elif act == 4:
                database.retry_failed_layers(reason_like=chance.choice([None, "one"]))
            elif act == 5:
                database.drop(reason_like="other")
            else:
                database.adopt()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(disturb, range(6)))
    database.enqueue(*layers)
    database.retry_failed_layers()
    database.release(older_than=NOW + 10**6, max_attempts=MANY)
    assert sorted(claim.digest for claim in database.claim(100)) == sorted(layers)
