"""Ids of an older service: imported by the keys of MDS, never overwriting, with a reason for each skipped one."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.errors import DatabaseNotReady
from core.pace import Pace
from core.torrents.brewing import brew_layer
from core.torrents.store import DirectoryStore
from jobs.backfill_legacy import TakenOver, Takeover, TakeoverSummary, backfill_legacy
from jobs.verify_ids import verify_ids
from sql.engine import create_engine_for
from sql.layers import find_rbtorrent_ids
from sql.transaction import reading
from tests.integration.sql.database import NOW, Database, digest_of, rbtorrent_id_of
from tests.layer_backends import TEMPLATE, layer_of
from tests.memory_source import Fault, MemorySource
from tests.old_service import OldService, old_id_of
from tests.servers.pgbouncer import start_pgbouncer
from tests.servers.postgres import PostgresServer
from tests.services import service_of


@pytest.fixture
def old(database: Database) -> OldService:
    return OldService(database)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.backfill_legacy._BATCH", 7)


def take_over(database: Database, *, stop: threading.Event | None = None, **how: Any) -> TakeoverSummary:
    service = service_of(
        database.engine,
        database.tables,
        parts={"clock": lambda _: NOW, "stop": stop or threading.Event()},
        db={"blob_path_template": TEMPLATE},
    )
    return backfill_legacy(Takeover(service, **how))


def ids_in(database: Database) -> dict[str, str | None]:
    return {digest: row.rbtorrent_id for digest, row in database.mapping().items()}


def test_every_id_goes_to_the_layer_whose_file_has_its_key(database: Database, old: OldService) -> None:
    expected = {old.add(name): old_id_of(name) for name in range(40)}

    summary = take_over(database)

    assert str(summary) == "took over 40 of 40 ids, 0 known already, not taken 0"
    assert ids_in(database) == expected
    assert {(row.added, row.brewed, row.brew_lock) for row in database.mapping().values()} == {
        (NOW, NOW, None)
    }
    with reading(database.engine) as connection:
        assert find_rbtorrent_ids(connection, database.tables, expected) == expected
    assert database.claim() == []


def test_a_row_may_have_the_key_of_the_driver(database: Database, old: OldService) -> None:
    digest = old.add("a", mds_key=old.driver_key("a"))
    unreadable = old.add("b", mds_key=old.driver_key("b"), info="no JSON")

    assert take_over(database).taken == 2
    assert ids_in(database) == {digest: old_id_of("a"), unreadable: old_id_of("b")}


def test_an_existing_id_is_never_overwritten(database: Database, old: OldService) -> None:
    brewed, same = old.add("brewed"), old.add("same")
    database.enqueue(brewed, same)
    for claim in database.claim(2):
        own = {brewed: rbtorrent_id_of(brewed), same: old_id_of("same")}[str(claim.digest)]
        database.complete(claim, rbtorrent_id=own, now=NOW - 50)

    summary = take_over(database)

    assert ids_in(database) == {brewed: rbtorrent_id_of(brewed), same: old_id_of("same")}
    assert {row.brewed for row in database.mapping().values()} == {NOW - 50}
    assert (summary.taken, summary.known) == (0, 1)
    assert summary.unmatched == {"its layer has another id": 1}


def test_a_layer_that_waits_or_was_set_aside_gets_its_id_and_leaves_the_queue(
    database: Database, old: OldService
) -> None:
    failed, waiting = old.add("failed"), old.add("waiting")
    database.enqueue(failed, now=NOW - 9)
    database.set_aside(database.claim_one())
    database.enqueue(waiting, now=NOW - 9)

    assert take_over(database).taken == 2

    assert ids_in(database) == {failed: old_id_of("failed"), waiting: old_id_of("waiting")}
    assert {row.added for row in database.mapping().values()} == {NOW - 9}
    assert database.claim() == []
    status = database.status()
    assert (status.waiting_count, status.set_aside_count) == (0, 0)
    assert database.layer(failed).reason is None


def test_a_layer_that_is_being_brewed_is_left_to_its_brewer(database: Database, old: OldService) -> None:
    digest = old.add("a")
    database.enqueue(digest)
    claim = database.claim_one()

    summary = take_over(database)

    assert summary.unmatched == {"its layer is being brewed": 1}
    assert database.complete(claim)
    assert ids_in(database) == {digest: rbtorrent_id_of(digest)}


@pytest.mark.parametrize(
    "malformed",
    [
        None,
        "rbtorrent:",
        "rbtorrent:" + "a" * 39,
        "rbtorrent:" + "a" * 41,
        "rbtorrent:" + "A" * 40,
        "a" * 40,
        " rbtorrent:" + "a" * 40,
        "rbtorrent:" + "a" * 40 + "\n",
        "rbtorrent:" + "ａ" * 40,
        "x" * 10_000,
    ],
)
def test_a_malformed_id_is_not_imported(database: Database, old: OldService, malformed: str | None) -> None:
    old.add("a", rbtorrent_id=malformed)
    good = old.add("b")

    summary = take_over(database)

    assert summary.unmatched == {"malformed id": 1}
    assert ids_in(database) == {good: old_id_of("b")}


def test_of_two_layers_with_one_id_only_one_gets_it(database: Database, old: OldService) -> None:
    # In one batch, and across batches.
    shared = old_id_of("shared")
    digests = {old.add(name, rbtorrent_id=shared) for name in range(20)}

    summary = take_over(database)

    assert summary.unmatched == {"another layer has the id": 19}
    [(digest, rbtorrent_id)] = ids_in(database).items()
    assert digest in digests
    assert rbtorrent_id == shared


def test_an_id_in_use_is_not_assigned_to_another_layer(database: Database, old: OldService) -> None:
    owner = digest_of("owner")
    database.enqueue(owner)
    database.complete(database.claim_one(), rbtorrent_id=old_id_of("a"))
    old.add("a")

    assert take_over(database).unmatched == {"another layer has the id": 1}
    assert ids_in(database) == {str(owner): old_id_of("a")}


def test_of_a_key_with_two_ids_neither_is_imported(database: Database, old: OldService) -> None:
    old.add("a")
    old.add_id("a", rbtorrent_id=old_id_of("another"))

    assert take_over(database).unmatched == {"several ids for its key": 2}
    assert ids_in(database) == {}


def test_a_repeated_row_counts_once(database: Database, old: OldService) -> None:
    digest = old.add("a")
    old.add_id("a")

    summary = take_over(database)

    assert (summary.taken, summary.unmatched) == (1, {"duplicate row": 1})
    assert ids_in(database) == {digest: old_id_of("a")}


def test_a_layer_with_rows_by_both_of_its_keys_gets_one_of_their_ids(
    database: Database, old: OldService
) -> None:
    digest = old.add("a")
    old.add_id("a", mds_key=old.driver_key("a"), rbtorrent_id=old_id_of("other"))

    summary = take_over(database)

    assert (summary.taken, summary.unmatched) == (1, {"its layer has another id": 1})
    assert ids_in(database)[digest] in (old_id_of("a"), old_id_of("other"))


@pytest.mark.parametrize(
    "info",
    ["", "no JSON", "[1]", '{"size": 1}', '{"key": 5, "size": 1}', '{"key": "a/../b", "size": 1}', "{"],
)
def test_invalid_json_hides_the_key_and_is_counted(database: Database, old: OldService, info: str) -> None:
    old.add("a", info=info)
    good = old.add("b")

    summary = take_over(database)

    assert (summary.taken, summary.unreadable) == (1, 1)
    assert summary.unmatched == {"key not in MDS": 1}
    assert str(summary).endswith("mdsfileinfo unreadable 1")
    assert ids_in(database) == {good: old_id_of("b")}


def test_each_unmatched_row_has_a_reason(
    database: Database, old: OldService, caplog: pytest.LogCaptureFixture
) -> None:
    old.add("deleted", deleted=True)
    old.add("deleted and removed", deleted=True)
    old.forget_path("deleted and removed")
    old.add("missing")
    old.forget_path("missing")
    old.add("a tag", path="/docker/registry/v2/repositories/a/_manifests/tags/v1/current/link")
    old.add("no digest", path="/docker/registry/v2/blobs/sha256/ab/abcd/data")
    old.add_id("unknown")
    old.add_id("without a key", mds_key=" ")
    kept = old.add("not marked", deleted=None)

    summary = take_over(database)

    assert ids_in(database) == {kept: old_id_of("not marked")}
    assert summary.unmatched == {
        "deleted in MDS": 2,
        "no file for its key": 1,
        "its file is not a blob": 1,
        "no digest in the path of its file": 1,
        "key not in MDS": 2,
    }
    assert (summary.rows, summary.taken, summary.unmatched.total()) == (8, 1, 7)
    for name in ("deleted", "missing", "a tag", "no digest", "unknown"):
        assert repr(old.mds_key(name)) in caplog.text


def test_of_many_rows_of_a_kind_only_some_are_logged_and_all_are_counted(
    database: Database, old: OldService, caplog: pytest.LogCaptureFixture
) -> None:
    for name in range(30):
        old.add_id(name, mds_key=f"{name}\n" + "x" * 5000)

    assert take_over(database).unmatched == {"key not in MDS": 30}
    assert 0 < len(caplog.records) <= 10
    assert all(len(record.getMessage()) < 500 for record in caplog.records)


def test_a_dry_run_reports_the_same_and_writes_nothing(database: Database, old: OldService) -> None:
    for name in range(10):
        old.add(name)
    old.add("bad", rbtorrent_id="none")
    database.enqueue(waiting := old.add("waiting"))

    dry = take_over(database, dry_run=True)

    assert str(dry) == "would take over 11 of 12 ids, 0 known already, not taken 1 (malformed id: 1)"
    assert ids_in(database) == {waiting: None}
    assert str(take_over(database)) == str(dry).replace("would take over", "took over")


def test_the_limit_is_kept_and_another_run_continues(database: Database, old: OldService) -> None:
    digests = {old.add(name) for name in range(20)}
    old.add_id("unknown")

    first = take_over(database, limit=9)
    assert (first.taken, len(ids_in(database)), first.unmatched.total()) == (9, 9, 0)
    second = take_over(database)
    assert (second.taken, second.known, second.unmatched.total()) == (11, 9, 1)
    assert set(ids_in(database)) == digests


def test_a_stopped_run_explains_how_to_resume(database: Database, old: OldService) -> None:
    old.add("a")
    stop = threading.Event()
    stop.set()

    assert str(take_over(database, stop=stop)).endswith("interrupted: run it again to continue")
    assert take_over(database).taken == 1


def test_a_slow_rate_makes_small_steps(database: Database, old: OldService) -> None:
    for name in range(5):
        old.add(name)
    # A step per five rows, the first at once.
    assert take_over(database, rate=5.0).taken == 5


def test_two_concurrent_runs_import_each_id_once(database: Database, old: OldService) -> None:
    expected = {old.add(name): old_id_of(name) for name in range(150)}
    for name in range(150, 160):
        old.add(name, rbtorrent_id=old_id_of("shared"))
    summaries: list[TakeoverSummary] = []
    runs = [threading.Thread(target=lambda: summaries.append(take_over(database))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()

    assert sum(summary.taken for summary in summaries) == 151
    found = ids_in(database)
    assert {digest: found[digest] for digest in expected} == expected
    assert len(found) == 151


def test_a_database_without_the_tables_of_mds_is_reported(database: Database) -> None:
    with pytest.raises(DatabaseNotReady, match="mds_keys_to_rbtorrents_mapping, mfs, mds"):
        take_over(database)


def test_file_info_in_a_json_column_is_read(postgres_url: str) -> None:
    engine = create_engine_for(url=postgres_url)
    database = Database.created(engine)
    old = OldService(database)
    digest = old.add("a")
    database.execute("ALTER TABLE mds ALTER mdsfileinfo TYPE json USING mdsfileinfo::json")

    assert take_over(database).taken == 1
    assert ids_in(database) == {digest: old_id_of("a")}
    engine.dispose()


def test_it_works_through_pgbouncer_in_transaction_mode(postgres: PostgresServer, tmp_path: Path) -> None:
    name = "test_legacy_bouncer"
    postgres.create_database(name)
    try:
        with start_pgbouncer(tmp_path, postgres) as bouncer:
            engine = create_engine_for(url=bouncer.url(name))
            database = Database.created(engine)
            old = OldService(database)
            for one in range(30):
                old.add(one)
            assert take_over(database).taken == 30
            assert take_over(database).known == 30
            engine.dispose()
    finally:
        postgres.drop_database(name)


def test_the_sample_has_layers_with_new_and_known_old_ids(database: Database, old: OldService) -> None:
    expected = {old.add(name): old_id_of(name) for name in range(20)}
    old.add("bad", rbtorrent_id="none")

    for summary in (take_over(database, dry_run=True, sample=5), take_over(database, sample=50)):
        drawn = {str(layer.digest): layer.rbtorrent_id for layer in summary.sample}
        assert drawn.items() <= expected.items()
        assert len(drawn) == min(20, 5 if summary.dry_run else 50)
        assert {layer.size for layer in summary.sample} == {7}
    assert len(take_over(database, sample=3).sample) == 3


def verified(layers: list[TakenOver], source: MemorySource) -> str:
    stop = threading.Event()
    return str(verify_ids(source, layers, private=True, connections=1, stop=stop))


def test_a_sample_is_checked_against_its_bytes() -> None:
    contents = [bytes([number]) * 1000 for number in range(5)]
    layers = [layer_of(content) for content in contents]
    source = MemorySource({layer.digest: content for layer, content in zip(layers, contents, strict=True)})
    source.layers[layers[1].digest] = b"other bytes"
    del source.layers[layers[2].digest]
    taken = [TakenOver(layer.digest, None, old_id_of(layer.digest)) for layer in layers]
    taken[3] = replace(taken[3], size=999)

    report = verified(taken, source)

    assert report == (
        "verified 5 layers: sound 2, missing 1, damaged 2, unread 0; BitTorrent ids 0, other ids 2"
    )


def test_an_id_that_this_service_would_assign_is_recognised(tmp_path: Path) -> None:
    content = b"a layer"
    layer = layer_of(content)
    source = MemorySource({layer.digest: content})
    store = DirectoryStore(tmp_path)
    ours = brew_layer(source, store, layer, private=True, connections=1, interrupted=lambda: False)

    report = verified([TakenOver(layer.digest, len(content), ours.rbtorrent_id)], source)

    assert report.endswith("sound 1, missing 0, damaged 0, unread 0; BitTorrent ids 1, other ids 0")


def test_a_source_that_does_not_answer_leaves_the_layer_unread() -> None:
    layer = layer_of(b"a layer")
    source = MemorySource({layer.digest: b"a layer"}, faults=[Fault("refused connection")])

    assert "sound 0, missing 0, damaged 0, unread 1;" in verified(
        [TakenOver(layer.digest, None, old_id_of("a"))], source
    )


def test_known_rows_do_not_use_up_the_limit_of_another_run(database: Database, old: OldService) -> None:
    for name in range(20):
        old.add(name)
    assert take_over(database, limit=6).taken == 6
    assert take_over(database, limit=6).taken == 6
    assert sum(value is not None for value in ids_in(database).values()) == 12


def test_only_new_rows_are_paced_and_commits_are_frequent(
    database: Database, old: OldService, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in range(20):
        old.add(name)
    take_over(database, limit=12)
    waited: list[tuple[int, int]] = []

    def wait(pace: Pace, steps: int = 1) -> None:
        waited.append((steps, sum(value is not None for value in ids_in(database).values())))

    monkeypatch.setattr(Pace, "wait", wait)
    assert take_over(database, rate=1.0).taken == 8
    assert sum(steps for steps, _ in waited) == 8
    assert [committed for _, committed in waited] == [12, 14, 16, 18][: len(waited)]
