"""Torrents missing from the store: lost ones are brewed again, those of an older service are not."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import bottle
import pytest
import sqlalchemy as sa

from core.digest import Digest
from core.layer import Layer
from core.torrents.brewing import brew_layer
from core.torrents.store import MetainfoStore
from jobs.brew import brew
from sql.engine import create_engine_for
from sql.layers import find_rbtorrent_ids
from sql.legacy_ids import LegacyId, adopt_legacy_ids
from sql.tables import Priority
from sql.transaction import reading, transaction
from tests.integration.sql.database import Database
from tests.memory_source import MemorySource
from tests.servers.layers import layer_bytes
from tests.servers.postgres import start_postgres
from tests.services import service_of
from tests.web_parts import NOON, Parts, app_of, rows, web_parts
from tests.wsgi import Answer, call
from web.limits import DatabasePause
from web.missing_torrents import KEEP_SECONDS, REPEAT_SECONDS

CONTENT = layer_bytes(100_000)
LAYER = Digest(hashlib.sha256(CONTENT).hexdigest())
OLD_ID = "rbtorrent:" + "5" * 40
ELSEWHERE = "the torrent is served by the older service that made it"


@dataclass
class Here:
    """An app, a brewer, and a clock that tests set."""

    app: bottle.Bottle
    parts: Parts
    database: Database
    now: float = NOON

    def get(self, digest: Digest = LAYER, method: str = "GET", scope: str = "library/test") -> Answer:
        return call(self.app, method, f"/v0/torrents/{scope}/{digest}")

    def enqueue(self, digest: Digest = LAYER) -> None:
        self.database.enqueue(str(digest), scope="library/test", priority=Priority.BACKFILLED, now=NOON - 10)

    def brew(self) -> int:
        """Run the brewer, and return the number of brewed layers."""
        parts = self.parts
        brewing = {
            "source": parts.source,
            "store": parts.store,
            "brewer_name": "host:1",
            "clock": lambda connection: int(self.now),
        }
        return brew(service_of(parts.engine, parts.tables, parts=brewing)).brewed

    def lose(self, digest: Digest = LAYER) -> None:
        self.parts.store.delete(digest)

    def take_over(self, digest: Digest = LAYER) -> None:
        with transaction(self.parts.engine) as connection:
            made = LegacyId(str(digest), OLD_ID)
            assert adopt_legacy_ids(connection, self.parts.tables, [made], now=NOON - 5) == {made: "taken"}


def here_of(folder: Path, database_url: str) -> Here:
    here: list[Here] = []
    source = MemorySource({LAYER: CONTENT})
    parts = web_parts(
        folder, database_url=database_url, source=source, clock=lambda: here[0].now if here else NOON
    )
    here.append(Here(app_of(parts), parts, Database(parts.engine, parts.tables)))
    return here[0]


@pytest.fixture
def here(tmp_path: Path, database_url: str) -> Iterator[Here]:
    made = here_of(tmp_path, database_url)
    yield made
    made.app.close()
    made.parts.engine.dispose()


def message(answer: Answer) -> str:
    [error] = json.loads(answer.body)["errors"]
    assert error["detail"] == {"digest": str(LAYER)}
    assert error["code"] == ("TORRENT_UNKNOWN" if answer.status == 404 else "UNAVAILABLE")
    text: str = error["message"]
    return text


def test_a_lost_torrent_is_brewed_again_and_served(here: Here) -> None:
    here.enqueue()
    assert here.brew() == 1
    whole = here.get()
    here.lose()

    answer = here.get()
    assert (answer.status, answer.headers["Retry-After"]) == (404, "30")
    assert message(answer) == "the torrent was lost and is being brewed again"
    layer = here.database.layer(str(LAYER), now=NOON)
    assert (layer.state, layer.priority, layer.scopes) == ("waiting", Priority.ASKED, ("library/test",))

    assert here.brew() == 1
    again = here.get()
    assert (again.status, len(again.body)) == (200, len(whole.body))


def test_while_it_is_brewed_again_manifests_have_no_id(here: Here) -> None:
    def ids() -> dict[str, str]:
        with reading(here.parts.engine) as connection:
            return find_rbtorrent_ids(connection, here.parts.tables, [str(LAYER)])

    here.enqueue()
    here.brew()
    before = ids()
    here.lose()
    here.get()
    assert ids() == {}
    here.brew()
    assert ids() == before != {}


def test_many_concurrent_requests_queue_it_once_with_few_queries(here: Here) -> None:
    here.enqueue()
    here.brew()
    here.lose()
    statements: list[str] = []
    sa.event.listen(
        here.parts.engine, "before_cursor_execute", lambda *args: statements.append(args[2].split()[0])
    )

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: here.get(), range(200)))

    # The queries of one request, not of 200.
    assert 0 < len(statements) < 20
    assert {(answer.status, answer.headers["Retry-After"]) for answer in answers} == {(404, "30")}
    assert here.database.status(now=NOON).waiting_count == 1


def test_a_result_is_checked_again_after_a_while(here: Here) -> None:
    unknown = message(here.get())
    assert unknown.startswith("no manifest that names this layer")
    here.enqueue()
    assert message(here.get()) == unknown
    here.now += KEEP_SECONDS
    assert message(here.get()) == "the layer is not brewed yet"
    assert here.brew() == 1
    here.lose()
    assert message(here.get()) == "the layer is not brewed yet"
    here.now += KEEP_SECONDS
    assert message(here.get()) == "the torrent was lost and is being brewed again"


def test_with_a_different_store_the_brewers_do_not_brew_forever(
    here: Here, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    here.enqueue()
    here.brew()
    here.lose()
    assert here.get().status == 404
    here.brew()
    here.lose()
    here.now += KEEP_SECONDS

    answer = here.get()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "30")
    assert message(answer) == "the layer is brewed, but its torrent is not in the store"
    assert "metainfo brewed again is not in the store" in caplog.text
    assert here.brew() == 0

    here.now += REPEAT_SECONDS
    assert here.get().status == 404
    assert here.brew() == 1


def test_a_torrent_that_reappeared_may_be_lost_again_at_once(here: Here) -> None:
    here.enqueue()
    for _ in range(3):
        assert here.brew() == 1
        assert here.get().status == 200
        here.lose()
        assert message(here.get()) == "the torrent was lost and is being brewed again"


class LateStore:
    """A store into which metainfo is put between a request's read of it and its read of the database."""

    def __init__(self, store: MetainfoStore, late: bytes) -> None:
        self._store = store
        self._late: bytes | None = late

    def get(self, digest: Digest) -> bytes:
        try:
            return self._store.get(digest)
        finally:
            if self._late is not None:
                self._store.put(digest, self._late)
                self._late = None

    def put(self, digest: Digest, data: bytes) -> None:
        self._store.put(digest, data)

    def delete(self, digest: Digest) -> None:
        self._store.delete(digest)

    def check(self) -> str:
        return "late"


def test_a_torrent_stored_during_the_check_is_not_lost(here: Here) -> None:
    here.enqueue()
    here.brew()
    late = here.parts.store.get(LAYER)
    here.lose()
    parts = replace(here.parts, store=LateStore(here.parts.store, late))
    app = app_of(parts)
    assert call(app, "GET", f"/v0/torrents/library/test/{LAYER}").status == 200
    assert here.database.layer(str(LAYER), now=NOON).state == "brewed"
    app.close()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("before", ["unknown", "waiting", "failed", "set aside", "in the old table"])
def test_an_adopted_id_is_reported_and_nothing_is_queued(here: Here, before: str, method: str) -> None:
    if before in ("waiting", "failed", "set aside"):
        here.enqueue()
    if before == "failed":
        here.database.retry(here.database.claim_one(now=NOON), next_try=NOON + 10**6)
    if before == "set aside":
        here.database.set_aside(here.database.claim_one(now=NOON))
    if before == "in the old table":
        here.database.execute(
            f"INSERT INTO rbtorrent_mapping VALUES ('{LAYER}', '{OLD_ID}', {NOON - 9}, NULL, {NOON - 5})"
        )
    else:
        here.take_over()

    for scope in ("library/test", "other/app", "library/test"):
        answer = here.get(method=method, scope=scope)
        assert answer.status == 404
        assert "Retry-After" not in answer.headers
        assert method == "HEAD" or message(answer) == ELSEWHERE
    assert rows(here.parts, here.parts.tables.mapping, "rbtorrent_id", "brewed") == [(OLD_ID, NOON - 5)]
    assert here.brew() == 0


def test_a_stored_torrent_is_served_also_for_an_adopted_id(here: Here) -> None:
    here.take_over()
    source = here.parts.source
    brew_layer(source, here.parts.store, Layer(LAYER), private=True, connections=1, interrupted=lambda: False)
    assert here.get().status == 200


def test_with_the_database_down_the_answer_is_the_same_without_a_query_per_request(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with start_postgres(tmp_path / "postgres") as postgres:
        postgres.create_database("app")
        here = here_of(tmp_path, postgres.url("app"))
        here.enqueue()
        here.brew()
        here.lose()
        postgres.stop()
        for _ in range(50):
            answer = here.get()
            assert (answer.status, answer.headers["Retry-After"]) == (404, "30")
            assert message(answer) == "the layer is not brewed yet"
        postgres.start()
        here.now += DatabasePause.SECONDS
        assert message(here.get()) == "the torrent was lost and is being brewed again"
        assert caplog.messages[0].startswith("queueing of requested torrents failed reason=layer ")
        assert re.search(
            "queueing of requested torrents works again .*failures=1$", caplog.text, re.MULTILINE
        )
        assert here.brew() == 1
        here.app.close()
        here.parts.engine.dispose()


def test_without_tables_the_answer_is_the_same(here: Here) -> None:
    here.database.execute("DROP TABLE rbtorrent_mapping")
    answer = here.get()
    assert (answer.status, answer.headers["Retry-After"]) == (404, "30")


def test_many_requests_do_not_queue_up_for_a_database_that_hangs(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        url = f"postgresql://user@127.0.0.1:{silent.getsockname()[1]}/app"
        app = app_of(replace(web_parts(tmp_path), engine=create_engine_for(url=url, connect_timeout=2.0)))
        with ThreadPoolExecutor(20) as pool:
            answers = list(
                pool.map(lambda _: call(app, "GET", f"/v0/torrents/library/test/{LAYER}"), range(20))
            )
        app.close()
        assert {(answer.status, answer.headers["Retry-After"]) for answer in answers} == {(404, "30")}
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()
