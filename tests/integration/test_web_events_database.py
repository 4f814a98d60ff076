"""Events with a busy, slow or unavailable database: `OK` means committed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import web.event_writer
from core.digest import Digest
from core.errors import DatabaseDown
from core.event_plan import Plan
from core.layer import Layer
from sql.transaction import transaction
from tests.notifications import A, B, C, envelope, layer_event
from tests.servers.postgres import start_postgres
from tests.servers.waiting import comes_true
from tests.web_events import receiving
from tests.web_parts import NOON, Parts, web_parts
from web.event_writer import EventWriter


def numbered(number: int) -> str:
    return f"sha256:{number:064x}"


def in_threads(work: Callable[[int], None], number: int) -> None:
    threads = [threading.Thread(target=work, args=(one,)) for one in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_many_registries_at_once_lose_nothing(tmp_path: Path, database_url: str) -> None:
    with receiving(tmp_path, database_url=database_url) as app:
        answers: list[bytes] = []

        def send(registry: int) -> None:
            for number in range(registry, 200, 20):
                body = envelope(layer_event(digest=numbered(number)), layer_event(digest=C))
                answers.append(app.post(body).body)

        in_threads(send, 20)
        assert answers == [b"OK"] * 200
        assert app.queued() == sorted([*map(numbered, range(200)), C])


def test_several_apps_on_one_database_lose_nothing(tmp_path: Path, postgres_url: str) -> None:
    answers: list[bytes] = []

    def run(app: int) -> None:
        # The same layers in other orders: the second request waits for, or overtakes, the first.
        with receiving(tmp_path / str(app), database_url=postgres_url) as running:
            numbers = range(100) if app % 2 else range(99, -1, -1)
            for start in range(0, 100, 10):
                events = [layer_event(digest=numbered(number)) for number in numbers[start : start + 20]]
                answers.append(running.post(envelope(*events)).body)

    for app in range(4):
        (tmp_path / str(app)).mkdir()
    in_threads(run, 4)
    assert answers == [b"OK"] * 40
    with receiving(tmp_path, database_url=postgres_url) as app:
        assert app.queued() == [numbered(number) for number in range(100)]


def test_with_postgresql_stopped_events_are_503_and_accepted_after_its_restart(tmp_path: Path) -> None:
    with start_postgres(tmp_path / "postgres") as postgres:
        url = postgres.create_database("events")
        now = [float(NOON)]
        with receiving(tmp_path, database_url=url, clock=lambda: now[0]) as app:
            assert app.post(envelope(layer_event())).body == b"OK"
            postgres.crash()
            now[0] += 60
            for role in ("library/test", "other/test"):
                answer = app.post(envelope(layer_event(digest=B, repository=role)))
                assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
            postgres.start()
            now[0] += 60
            assert app.queued() == [A]
            assert app.post(envelope(layer_event(digest=B))).body == b"OK"
            assert app.queued() == [A, B]


def test_while_the_database_file_is_missing_events_are_503(tmp_path: Path) -> None:
    now = [float(NOON)]
    with receiving(tmp_path, clock=lambda: now[0]) as app:
        app.parts.engine.dispose()
        database, aside = tmp_path / "database.sqlite", tmp_path / "aside.sqlite"
        database.rename(aside)
        database.mkdir()
        assert app.post(envelope(layer_event())).status == 503
        database.rmdir()
        aside.rename(database)
        now[0] += 60
        assert app.post(envelope(layer_event())).body == b"OK"
        assert app.queued() == [A]


@pytest.fixture
def parts(tmp_path: Path, postgres_url: str) -> Iterator[Parts]:
    made = web_parts(tmp_path, database_url=postgres_url)
    yield made
    made.engine.dispose()


def plan(digest: str) -> Plan:
    return Plan((Layer(Digest.parse(digest), ("library/test",), 1),), (), ())


class Blocked:
    """Locks a table against writes for the length of the block."""

    def __init__(self, parts: Parts) -> None:
        self._transaction = transaction(parts.engine)
        self._table = parts.tables.mapping.name

    def __enter__(self) -> None:
        connection = self._transaction.__enter__()
        connection.execute(sa.text(f"LOCK TABLE {self._table} IN SHARE MODE"))

    def __exit__(self, *_: object) -> None:
        self._transaction.__exit__(None, None, None)


def test_plans_that_arrive_during_a_transaction_share_the_next_one(parts: Parts) -> None:
    commits: list[int] = []
    sa.event.listen(parts.engine, "commit", lambda connection: commits.append(1))
    writer = EventWriter(parts.engine, parts.tables)
    with Blocked(parts):
        threads = [threading.Thread(target=writer.write, args=(plan(numbered(n)),)) for n in range(30)]
        for thread in threads:
            thread.start()
        assert comes_true(lambda: len(writer._arrived) == 29), "the first is being written"
        commits.clear()
    for thread in threads:
        thread.join()
    assert len(commits) == 3, "the lock's own, the first plan's, and one for all others"
    with transaction(parts.engine) as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(parts.tables.queue)) == 30


def test_a_hanging_database_does_not_block_later_requests(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.event_writer, "WAIT_SECONDS", 0.3)
    writer = EventWriter(parts.engine, parts.tables)
    with Blocked(parts):
        first = threading.Thread(target=writer.write, args=(plan(A),))
        first.start()
        assert comes_true(lambda: writer._writing.locked())
        # The first waits until the table is free.
        with pytest.raises(DatabaseDown):
            writer.write(plan(B))
    first.join()
    writer.write(plan(C))


def test_no_event_is_answered_ok_if_the_shared_write_fails(parts: Parts) -> None:
    writer = EventWriter(parts.engine, parts.tables)
    broken = Plan((), (), (), malformed=(("sha256:" + "a" * 200, "library/test"),))
    failed: list[str] = []

    def put(number: int) -> None:
        try:
            writer.write(broken if number % 2 else plan(numbered(number)))
        except (DatabaseDown, sa.exc.DBAPIError):
            failed.append(numbered(number))

    in_threads(put, 20)
    with transaction(parts.engine) as connection:
        queued = set(connection.scalars(sa.select(parts.tables.queue.c.digest)))
    assert queued == {numbered(number) for number in range(0, 20, 2)} - set(failed)
    assert len(failed) >= 10
