"""Brewers that act on their claims at random, for tests of many brewers on one queue."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sql.engine import create_engine_for
from sql.tables import build_tables
from tests.integration.sql.database import NOW, Database

# More attempts than any layer needs here.
MANY = 10**6


def work_on(database: Database, seed: int, tick: Callable[[], int]) -> Counter[str]:
    """Claim until the queue is empty; complete, retry, return, renew or abandon each claim.

    `tick` is the clock, and returns another time at each call. Return how often each layer was completed.
    """
    chance = random.Random(seed)
    completed: Counter[str] = Counter()
    while database.status().waiting_count or database.status().locked_count:
        claims = database.claim(chance.randint(1, 8), now=tick(), brewer=f"brewer:{seed}")
        if chance.random() < 0.3:
            claims = database.renew(claims, now=tick())
        returned = []
        for claim in claims:
            fate = chance.random()
            if fate < 0.6:
                if database.complete(claim, now=tick()):
                    completed[claim.digest] += 1
            elif fate < 0.75:
                database.retry(claim, next_try=tick())
            elif fate < 0.9:
                returned.append(claim)
        database.return_claims(returned)
        # Old enough that its brewer is slow or dead: both happen here.
        database.release(older_than=tick() - 40, max_attempts=MANY)
    return completed


def threads_work_on(database: Database, seeds: range) -> Counter[str]:
    """Run `work_on` in one thread for each seed."""
    clock = itertools.count(NOW)
    with ThreadPoolExecutor(len(seeds)) as pool:
        done = pool.map(lambda seed: work_on(database, seed, lambda: next(clock)), seeds)
        return sum(done, Counter())


def process_works_on(url: str, seed: int, processes: int) -> Counter[str]:
    """Run `work_on` in a separate process, whose clock returns times that no other's returns."""
    engine = create_engine_for(url=url, max_pool_size=4)
    try:
        clock = itertools.count(NOW + seed, processes)
        return work_on(Database(engine, build_tables()), seed, lambda: next(clock))
    finally:
        engine.dispose()
