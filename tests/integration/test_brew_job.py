"""The brew job on both engines: every layer is brewed once, failures are classified, nothing is lost."""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import libtorrent
import pytest
import sqlalchemy as sa

from core.digest import Digest
from core.errors import StoreFailed, TooManyRequests, Unavailable
from core.layer import Layer
from core.torrents.store import DirectoryStore
from jobs.brew import BrewSummary, brew
from jobs.brew_state import Outages
from jobs.release_locks import release_locks
from jobs.service import Service
from sql.claims import claim_layers
from sql.engine import create_engine_for
from sql.enqueue import enqueue_layers
from sql.layers import LayerRecord, find_layer
from sql.schema import create_missing
from sql.tables import Priority, build_tables
from sql.transaction import transaction
from tests.memory_source import Fault, MemoryReader, MemorySource
from tests.servers.postgres import PostgresServer
from tests.servers.waiting import comes_true, returns
from tests.services import changed, service_of


def layers_of(number: int, size: int = 1000) -> dict[Digest, bytes]:
    contents = [f"{index:08}".encode() * (size // 8) for index in range(number)]
    return {Digest(hashlib.sha256(content).hexdigest()): content for content in contents}


def brewing_service(engine: sa.Engine, source: MemorySource, folder: Path) -> Service:
    return service_of(
        engine,
        parts={"source": source, "store": DirectoryStore(folder / "metainfo"), "brewer_name": "test:1"},
        brewer={"workers": 2, "layers_per_chunk": 3, "sleep_time": 0.1},
    )


@pytest.fixture
def service(database_url: str, tmp_path: Path) -> Iterator[Service]:
    """A service with an empty source and chunks of three layers."""
    engine = create_engine_for(url=database_url)
    with transaction(engine) as connection:
        create_missing(connection, build_tables())
    yield brewing_service(engine, MemorySource({}), tmp_path)
    engine.dispose()


def queue(
    service: Service,
    digests: Sequence[Digest] | dict[Digest, bytes],
    priority: Priority = Priority.PUSHED,
) -> None:
    with transaction(service.database) as connection:
        new = [Layer(digest, ("library/test",)) for digest in digests]
        enqueue_layers(connection, service.tables, new, priority=priority, now=int(time.time()))


def record(service: Service, digest: Digest) -> LayerRecord:
    with transaction(service.database) as connection:
        found = find_layer(connection, service.tables, str(digest), now=int(time.time()))
    assert found is not None
    return found


def id_of(metainfo: bytes) -> str:
    """Return the id that another library computes from a torrent."""
    return f"rbtorrent:{libtorrent.load_torrent_buffer(metainfo).ti.info_hashes().v1}"


def claimed_at(service: Service, digest: Digest) -> int:
    mapping = service.tables.mapping
    with transaction(service.database) as connection:
        return connection.scalars(sa.select(mapping.c.brew_lock).where(mapping.c.digest == str(digest))).one()


def locks(service: Service) -> int:
    mapping = service.tables.mapping
    with transaction(service.database) as connection:
        return connection.scalars(
            sa.select(sa.func.count()).select_from(mapping).where(mapping.c.brew_lock.is_not(None))
        ).one()


def test_all_waiting_layers_are_brewed_chunk_after_chunk(service: Service) -> None:
    layers = layers_of(20)
    service = changed(service, source=MemorySource(layers))
    queue(service, layers)

    summary = brew(service)

    assert str(summary) == "brewed 20, failed 0, waiting 0"
    for digest in layers:
        layer = record(service, digest)
        assert layer.state == "brewed"
        assert layer.rbtorrent_id == id_of(service.store.get(digest))
    assert locks(service) == 0


def test_no_more_than_a_chunk_is_locked_at_once(service: Service) -> None:
    layers = layers_of(12)
    most = 0

    def look(offset: int) -> None:
        nonlocal most
        most = max(most, locks(service))

    queue(service, layers)
    brew(changed(service, source=MemorySource(layers, before_read=look)))

    assert 0 < most <= service.config.brewer.layers_per_chunk


def test_a_row_inserted_by_hand_is_brewed(service: Service) -> None:
    layers = layers_of(2)
    with transaction(service.database) as connection:
        for digest in layers:
            connection.execute(
                sa.text("INSERT INTO rbtorrent_mapping (digest, added) VALUES (:digest, 1)"),
                {"digest": str(digest)},
            )

    summary = brew(changed(service, source=MemorySource(layers)))

    assert summary.brewed == 2


def test_a_row_with_an_invalid_digest_is_set_aside_without_delaying_others(service: Service) -> None:
    layers = layers_of(5)
    with transaction(service.database) as connection:
        for digest in ("sha256:../../etc", "", "sha512:" + "0" * 121):
            connection.execute(
                sa.text("INSERT INTO rbtorrent_mapping (digest, added) VALUES (:digest, 1)"),
                {"digest": digest},
            )
    queue(service, layers)

    summary = brew(changed(service, source=MemorySource(layers)))

    assert (summary.brewed, summary.waiting) == (5, 0)
    assert locks(service) == 0


def test_bytes_that_do_not_match_their_digest_are_set_aside_and_get_no_id(service: Service) -> None:
    layers = layers_of(4)
    bad = next(iter(layers))
    queue(service, layers)

    summary = brew(changed(service, source=MemorySource({**layers, bad: layers[bad][:-1] + b"?"})))

    assert (summary.brewed, summary.failed) == (3, 1)
    layer = record(service, bad)
    assert (layer.state, layer.rbtorrent_id, layer.attempts) == ("set aside", None, 1)
    assert layer.reason is not None
    assert "digest" in layer.reason


@pytest.mark.parametrize("wrong", [999, 5_000_000])
def test_a_forged_size_costs_a_layer_one_attempt(service: Service, wrong: int) -> None:
    layers = layers_of(2)
    whole, damaged = layers
    now = time.time()
    source = MemorySource({whole: layers[whole], damaged: (layers[damaged] * 5001)[:wrong]})
    service = changed(service, source=source, clock=lambda connection: int(now))
    with transaction(service.database) as connection:
        new = [Layer(whole, ("library/test",), wrong), Layer(damaged, ("library/test",), 1000)]
        enqueue_layers(connection, service.tables, new, priority=Priority.PUSHED, now=int(now))

    assert brew(service).failed == 2
    first = record(service, whole)
    assert (first.state, first.size, first.attempts) == ("delayed", None, 1)
    assert first.reason is not None
    assert str(wrong) in first.reason

    now += 3600
    assert brew(service).failed == 1
    assert (record(service, whole).state, record(service, whole).size) == ("brewed", 1000)
    last = record(service, damaged)
    assert (last.state, last.rbtorrent_id) == ("set aside", None)
    assert last.reason is not None
    assert "the bytes have digest" in last.reason


def test_a_layer_whose_id_another_row_has_is_set_aside_without_delaying_others(
    service: Service,
) -> None:
    layers = layers_of(5)
    service = changed(service, source=MemorySource(layers), brewer={"workers": 1})
    queue(service, layers)
    brew(service)
    first, other = list(layers)[:2]
    mapping = service.tables.mapping
    with transaction(service.database) as connection:
        # The first layer's id was assigned to another row by hand, and the layer is queued again.
        connection.execute(sa.delete(mapping).where(mapping.c.digest.in_([str(first), str(other)])))
        connection.execute(sa.delete(service.tables.queue))
        connection.execute(
            sa.insert(mapping).values(
                digest="sha256:" + "f" * 64, rbtorrent_id=id_of(service.store.get(first)), added=1, brewed=1
            )
        )
    queue(service, [first, other])

    summary = brew(service)

    assert (summary.brewed, summary.failed) == (1, 1)
    assert record(service, first).state == "set aside"
    assert locks(service) == 0


def test_a_missing_layer_is_retried_then_set_aside(service: Service) -> None:
    [gone] = layers_of(1)
    now = time.time()
    service = changed(service, brewer={"max_attempts": 2}, clock=lambda connection: int(now))
    queue(service, [gone])

    assert brew(service).failed == 1
    assert record(service, gone).state == "delayed"
    now += 3600
    assert brew(service).failed == 1
    assert record(service, gone).state == "set aside"


def test_transient_failures_are_retried_and_finally_set_aside(service: Service) -> None:
    layers = layers_of(1)
    [digest] = layers
    now = time.time()
    source = MemorySource(layers, faults=[Fault("refused connection")] * 1000)
    service = changed(service, source=source, brewer={"max_attempts": 3}, clock=lambda connection: int(now))
    queue(service, [digest])

    states = []
    for _ in range(3):
        brew(service)
        layer = record(service, digest)
        states.append((layer.state, layer.attempts))
        # Not before it is due:
        assert brew(service).failed == 0
        now += 7 * 3600

    assert states == [("delayed", 1), ("delayed", 2), ("set aside", 3)]


def test_an_internal_error_is_logged_and_does_not_end_the_run(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    layers = layers_of(4)
    struck = threading.Lock()

    def strike(offset: int) -> None:
        if struck.acquire(blocking=False):
            raise ZeroDivisionError("a bug")

    queue(service, layers)

    summary = brew(changed(service, source=MemorySource(layers, before_read=strike)))

    assert (summary.brewed, summary.failed, summary.waiting) == (3, 1, 1)
    assert "internal error" in caplog.text


def test_a_stopped_brewer_releases_its_layers_at_once(service: Service) -> None:
    layers = layers_of(6)
    stop, reading, go_on = threading.Event(), threading.Event(), threading.Event()

    def block(offset: int) -> None:
        reading.set()
        go_on.wait(60)

    queue(service, layers)
    stopped = changed(service, source=MemorySource(layers, before_read=block), stop=stop)
    run = threading.Thread(target=brew, args=(stopped,))
    run.start()
    assert reading.wait(60)
    stop.set()
    try:
        assert comes_true(lambda: locks(service) == 0)
    finally:
        go_on.set()
        run.join(60)

    assert {record(service, digest).state for digest in layers} == {"waiting"}
    assert {record(service, digest).attempts for digest in layers} == {0}
    assert brew(changed(service, source=MemorySource(layers))).brewed == 6


def refuse() -> None:
    raise Unavailable("registry", "connection refused")


def test_a_brewer_that_probes_a_silent_source_stops_at_once(service: Service) -> None:
    stop, go_on = threading.Event(), threading.Event()

    class SilentSource(MemorySource):
        def check(self) -> str:
            stop.set()
            go_on.wait(60)
            return "fine"

    assert service.brew_outages.source.is_down(refuse)
    try:
        assert returns(lambda: brew(changed(service, source=SilentSource({}), stop=stop)))
        assert stop.is_set()
    finally:
        go_on.set()


def test_a_layer_brewed_for_longer_than_the_time_out_is_not_stolen(service: Service) -> None:
    layers = layers_of(1)
    timeout, began = 4, threading.Event()
    first = now = int(time.time()) - 1000

    def renewed() -> bool:
        return claimed_at(service, *layers) == now

    def slow(offset: int) -> None:
        nonlocal now
        if not began.is_set():
            began.set()
            # The time passes as the lock is renewed, however slow the machine is.
            while now <= first + timeout:
                now += timeout - 1
                assert comes_true(renewed)

    queue(service, layers)
    slow_service = changed(
        service,
        source=MemorySource(layers, before_read=slow),
        brewer={"brew_discard_timeout": timeout},
        clock=lambda _: now,
    )
    summaries = []
    run = threading.Thread(target=lambda: summaries.append(brew(slow_service)))
    run.start()
    released = 0
    while run.is_alive():
        released += release_locks(slow_service).released
        run.join(0.2)

    assert released == 0
    assert now > first + timeout
    assert [summary.brewed for summary in summaries] == [1]


def test_a_lock_lost_to_another_brewer_is_not_completed(service: Service) -> None:
    layers = layers_of(1)
    [digest] = layers
    taken = threading.Event()

    def take_over(offset: int) -> None:
        """From now on another brewer holds the layer, with its own token."""
        if taken.is_set():
            return
        taken.set()
        with transaction(service.database) as connection:
            connection.execute(sa.update(service.tables.mapping).values(brew_lock=None))
            later = int(time.time()) + 60
            assert claim_layers(connection, service.tables, now=later, limit=1, brewer="other:1")

    queue(service, layers)
    summary = brew(changed(service, source=MemorySource(layers, before_read=take_over)))

    assert summary.brewed == 0
    assert record(service, digest).state == "being brewed"
    assert record(service, digest).brewer == "other:1"


@pytest.mark.parametrize("brewers", [2, 4])
def test_concurrent_brewers_brew_every_layer_once(service: Service, brewers: int) -> None:
    layers = layers_of(60)
    source = MemorySource(layers)
    queue(service, layers)

    totals: list[int] = []
    runs = [
        threading.Thread(
            target=lambda name=f"test:{number}": totals.append(
                brew(changed(service, source=source, brewer_name=name)).brewed
            )
        )
        for number in range(brewers)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()

    assert sum(totals) == 60
    assert len(source.opened) == 60


class InOrder(MemorySource):
    """Records the order in which layers are requested."""

    order: list[Digest]

    def size(self, layer: Layer) -> int:
        self.order.append(layer.digest)
        return super().size(layer)


def test_urgent_layers_are_brewed_first(service: Service) -> None:
    layers = layers_of(9)
    digests = list(layers)
    source = InOrder(layers)
    source.order = []
    queue(service, digests[:6], Priority.BACKFILLED)
    queue(service, digests[6:], Priority.ASKED)

    assert brew(changed(service, source=source, brewer={"workers": 1})).brewed == 9

    assert set(source.order[:3]) == set(digests[6:])


class Outage:
    """A store and a source that can be made to fail, completely or in part."""

    def __init__(self, service: Service, layers: dict[Digest, bytes]) -> None:
        self.store_down = self.source_down = False
        self.refused: set[Digest] = set()
        self.unreadable: set[Digest] = set()
        self.kept = service.store
        self.source = MemorySource(layers)
        self.service = changed(
            service, store=FailingStore(self), source=FailingSource(self), brewer={"workers": 2}
        )

    def brew(self) -> BrewSummary:
        return brew(self.service)


class FailingStore:
    """A metainfo store in an outage."""

    def __init__(self, outage: Outage) -> None:
        self._outage = outage
        self.get = outage.kept.get
        self.delete = outage.kept.delete

    def put(self, digest: Digest, data: bytes) -> None:
        if self._outage.store_down or digest in self._outage.refused:
            raise StoreFailed("/metainfo", "no space left on device")
        self._outage.kept.put(digest, data)

    def check(self) -> str:
        if self._outage.store_down:
            raise StoreFailed("/metainfo", "no space left on device")
        return "fine"


class FailingSource(MemorySource):
    """A layer source in an outage."""

    def __init__(self, outage: Outage) -> None:
        super().__init__(outage.source.layers)
        self._outage = outage

    def size(self, layer: Layer) -> int:
        self._fail(layer.digest in self._outage.unreadable)
        return super().size(layer)

    def check(self) -> str:
        self._fail()
        return "fine"

    def _fail(self, at_all: bool = False) -> None:
        if self._outage.source_down or at_all:
            raise Unavailable("registry", "connection refused")


def attempts(service: Service, layers: dict[Digest, bytes]) -> set[tuple[str, int]]:
    return {(layer.state, layer.attempts) for layer in (record(service, digest) for digest in layers)}


def test_with_a_full_store_nothing_is_read_and_no_attempt_is_spent(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    layers = layers_of(20)
    outage = Outage(service, layers)
    queue(service, layers)
    outage.store_down = True

    for _ in range(5):
        summary = outage.brew()
        assert (summary.brewed, summary.failed, summary.waiting) == (0, 0, 20)
        assert "no space left" in str(summary.paused)
    assert outage.service.source.opened == []  # type: ignore[attr-defined]
    assert attempts(service, layers) == {("waiting", 0)}
    assert locks(service) == 0
    lines = [line for line in caplog.messages if "metainfo store" in line]
    assert len(lines) == 1
    assert lines[0].startswith("metainfo store failed reason=brewing is paused: ")

    outage.store_down = False
    summary = outage.brew()
    assert str(summary) == "brewed 20, failed 0, waiting 0"
    assert [line for line in caplog.messages if line.startswith("metainfo store works again")]


def test_a_registry_whose_storage_is_down_costs_no_attempts(service: Service) -> None:
    layers = layers_of(20)
    outage = Outage(service, layers)
    queue(service, list(layers)[:3])
    assert outage.brew().brewed == 3
    queue(service, layers)
    outage.unreadable = set(layers)

    for _ in range(3):
        summary = outage.brew()
        assert (summary.brewed, summary.failed, summary.waiting) == (0, 0, 17)
        assert "connection refused" in str(summary.paused)

    outage.unreadable = set()
    assert str(outage.brew()) == "brewed 17, failed 0, waiting 0"
    assert attempts(service, layers) == {("brewed", 0)}


class LimitedSource(MemorySource):
    """A source that works, and refuses every fourth request for their rate."""

    def open(self, layer: Layer, offset: int, length: int | None = None) -> MemoryReader:
        if len(self.opened) % 4 == 3:
            self.opened.append((offset, length))
            raise TooManyRequests("registry", "status 429", 300)
        return super().open(layer, offset, length)


def test_a_registry_that_limits_requests_costs_no_attempts(service: Service) -> None:
    layers = layers_of(20)
    now = 0.0
    source, outages = LimitedSource(layers), Outages(clock=lambda: now)
    service = changed(service, source=source, brew_outages=outages, brewer={"sleep_time": 100})
    queue(service, layers)
    paused = 0

    while (summary := brew(service)).waiting:
        assert summary.failed == 0
        assert "status 429" in str(summary.paused)
        paused += 1
        opened = len(source.opened)
        now += 299
        assert "status 429" in str(brew(service).paused)
        assert len(source.opened) == opened
        now += 1

    assert paused
    assert attempts(service, layers) == {("brewed", 0)}


def test_an_internal_error_of_a_probe_ends_the_run(service: Service) -> None:
    class BrokenSource(MemorySource):
        def check(self) -> str:
            raise ZeroDivisionError("a bug")

    assert service.brew_outages.source.is_down(refuse)
    with pytest.raises(ZeroDivisionError):
        brew(changed(service, source=BrokenSource({})))


@pytest.mark.parametrize("what", ["store", "source"])
def test_an_outage_during_a_run_pauses_it_and_requeues_every_layer(service: Service, what: str) -> None:
    layers = layers_of(20)
    outage = Outage(service, layers)
    queue(service, layers)
    begun = []

    def break_down(offset: int) -> None:
        begun.append(offset)
        if len(begun) == 12:
            setattr(outage, f"{what}_down", True)

    outage.service.source.before_read = break_down  # type: ignore[attr-defined]
    summary = outage.brew()

    assert summary.paused
    assert summary.failed == 0
    assert 0 < summary.brewed < 20
    assert summary.waiting == 20 - summary.brewed
    assert {state for state in attempts(service, layers) if state[0] != "brewed"} == {("waiting", 0)}
    assert locks(service) == 0

    setattr(outage, f"{what}_down", False)
    assert outage.brew().waiting == 0
    assert {state for state, _ in attempts(service, layers)} == {"brewed"}


@pytest.mark.parametrize("what", ["refused", "unreadable"])
def test_failures_of_single_layers_are_not_an_outage(service: Service, what: str) -> None:
    layers = layers_of(20)
    outage = Outage(service, layers)
    setattr(outage, what, set(list(layers)[:6]))
    queue(service, layers)

    summary = outage.brew()

    assert (summary.brewed, summary.failed, summary.paused) == (14, 6, None)
    assert attempts(service, layers) == {("brewed", 0), ("delayed", 1)}


class LowUser:
    """A PostgreSQL user who may brew, until the rights are revoked."""

    def __init__(self, server: PostgresServer, url: str) -> None:
        self.name = f"low_{secrets.token_hex(4)}"
        self.database = sa.make_url(url).database or ""
        self._execute = lambda statement: server.execute(statement, self.database)
        self._execute(f"CREATE ROLE {self.name} LOGIN PASSWORD 'low'")
        self.url = sa.make_url(url).set(username=self.name, password="low")

    def grant(self) -> None:
        self._execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {self.name}")

    def revoke(self) -> None:
        self._execute(f"REVOKE UPDATE ON rbtorrent_mapping FROM {self.name}")

    def drop(self) -> None:
        self._execute(f"DROP OWNED BY {self.name}")
        self._execute(f"DROP ROLE {self.name}")


@pytest.fixture
def low_user(postgres: PostgresServer, postgres_url: str) -> Iterator[LowUser]:
    user = LowUser(postgres, postgres_url)
    yield user
    user.drop()


def test_a_database_that_refuses_during_a_run_pauses_it_until_it_accepts_again(
    low_user: LowUser, postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layers = layers_of(20)
    owner = create_engine_for(url=postgres_url)
    brewer = create_engine_for(url=low_user.url.render_as_string(hide_password=False))
    source = MemorySource(layers)
    service = brewing_service(owner, source, tmp_path)
    with transaction(owner) as connection:
        create_missing(connection, service.tables)
    low_user.grant()
    queue(service, layers)
    begun: list[int] = []

    def revoke(offset: int) -> None:
        begun.append(offset)
        if len(begun) == 12:
            low_user.revoke()

    source.before_read = revoke
    summaries: list[BrewSummary] = []
    run = threading.Thread(target=lambda: summaries.append(brew(changed(service, database=brewer))))
    run.start()
    try:
        assert comes_true(lambda: any("database failed" in line for line in caplog.messages))
        assert len(source.opened) < 20
        before = attempts(service, layers)
    finally:
        low_user.grant()
        run.join()
        brewer.dispose()

    # One line names the cause and the remedy; no attempt is counted; all layers are brewed afterwards.
    lines = [line for line in caplog.messages if line.startswith("database failed")]
    assert len(lines) == 1
    assert "permission denied for table rbtorrent_mapping: GRANT " in lines[0]
    assert [line for line in caplog.messages if line.startswith("database works again")]
    assert {number for _, number in before} == {0}
    assert str(summaries[0]) == "brewed 20, failed 0, waiting 0"
    assert attempts(service, layers) == {("brewed", 0)}
    assert len(source.opened) == 20
    owner.dispose()
