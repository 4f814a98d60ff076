"""A scrape neither hangs nor fails with the database."""

from __future__ import annotations

import threading

import pytest

import core.queue_gauges
from core.errors import DatabaseDown
from core.metrics import DATABASE_UP, LAST_BREWED, QUEUE_LAYERS, QUEUE_OLDEST, Readings
from core.queue_gauges import HANGING_SECONDS, KEEP_SECONDS, QueueGauges, queue_readings
from tests.servers.waiting import comes_true

VALUES: Readings = {QUEUE_LAYERS: {("waiting", "pushed"): 3.0}}


class Database:
    """Answers, fails or hangs, as tests set it. Its clock is set by tests too."""

    def __init__(self) -> None:
        self.now = 0.0
        self.down = False
        self.answers = threading.Event()
        self.answers.set()
        self.reads = 0

    def read(self) -> Readings:
        self.reads += 1
        self.answers.wait()
        if self.down:
            raise DatabaseDown("gone")
        return VALUES

    def timer(self) -> float:
        return self.now


@pytest.fixture
def database(monkeypatch: pytest.MonkeyPatch) -> Database:
    monkeypatch.setattr(core.queue_gauges, "WAIT_SECONDS", 60.0)
    return Database()


def test_values_are_kept_for_a_while(database: Database) -> None:
    gauges = QueueGauges(database.read, database.timer)
    for _ in range(3):
        assert gauges.readings() == {DATABASE_UP: {(): 1.0}, **VALUES}
    assert database.reads == 1
    database.now += KEEP_SECONDS
    gauges.readings()
    assert database.reads == 2


def test_a_database_that_is_down_is_reported_and_queried_again(database: Database) -> None:
    gauges = QueueGauges(database.read, database.timer)
    database.down = True
    assert gauges.readings() == {DATABASE_UP: {(): 0.0}}
    database.down = False
    database.now += KEEP_SECONDS
    assert gauges.readings() == {DATABASE_UP: {(): 1.0}, **VALUES}


def test_a_database_that_hangs_delays_no_scrape(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    gauges = QueueGauges(database.read, database.timer)
    gauges.readings()
    monkeypatch.setattr(core.queue_gauges, "WAIT_SECONDS", 0.01)
    database.answers.clear()
    database.now += KEEP_SECONDS
    assert gauges.readings() == {DATABASE_UP: {(): 1.0}, **VALUES}
    database.now += HANGING_SECONDS + 1
    assert gauges.readings() == {DATABASE_UP: {(): 0.0}}
    assert comes_true(lambda: database.reads == 2)
    database.answers.set()


def test_each_count_becomes_a_gauge_with_its_labels() -> None:
    assert queue_readings({("waiting", "pushed"): 3}, {"pushed": 60}, 30) == {
        QUEUE_LAYERS: {("waiting", "pushed"): 3.0},
        QUEUE_OLDEST: {("pushed",): 60.0},
        LAST_BREWED: {(): 30.0},
    }


def test_no_gauge_has_a_value_for_what_has_never_happened() -> None:
    assert queue_readings({}, {}, None) == {QUEUE_LAYERS: {}, QUEUE_OLDEST: {}, LAST_BREWED: {}}
