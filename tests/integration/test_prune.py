"""Layers missing from the registry are removed; existing layers never are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from core.blobs.presence import PresenceChecker, PresenceResult, RegistryPresence, StoragePresence
from core.blobs.source import BlobStorage
from core.blobs.storage_layout import StorageLayout
from core.digest import Digest
from core.errors import (
    MetainfoMissing,
    Refused,
    RemoteError,
    StoreFailed,
    TimedOut,
    TooManyRequests,
    Unavailable,
)
from core.layer import Layer
from core.registry.client import RegistryClient
from core.torrents.store import DirectoryStore, MetainfoStore
from jobs.prune import PruneSummary, prune
from jobs.summary import was_paused
from sql.manifests import mark_seen, seen_manifests
from sql.missing_layers import suspect_layers
from sql.transaction import transaction
from tests.integration.sql.database import NOW, Database, digest_of
from tests.layer_backends import TEMPLATE, layer_of
from tests.registry_clients import client_of
from tests.servers.layers import layer_bytes
from tests.servers.push import push_blob, push_image
from tests.servers.registry import Registry, start_registry
from tests.services import service_of
from tests.storage_backends import DirectoryStorageBackend, blob_path_of, put_blob

DAY = 86_400
BLOBS = StorageLayout(TEMPLATE, 7).blobs


@dataclass
class Brewed:
    """Brewed layers in a storage, with their metainfo, and a clock that tests set."""

    database: Database
    backend: DirectoryStorageBackend
    store: DirectoryStore
    now: int = NOW
    presence: PresenceChecker | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def layers(self, number: int) -> list[Digest]:
        digests = sorted(
            Digest.parse(put_blob(self.backend, layer_bytes(100, seed))) for seed in range(number)
        )
        self.brew(*digests)
        return digests

    def brew(self, *digests: Digest, scope: str | None = "team/app") -> None:
        new = [Layer(digest, () if scope is None else (scope,), 100) for digest in digests]
        self.database.enqueue_all(new, now=self.now - DAY)
        for claim in self.database.claim(len(digests), now=self.now - DAY):
            assert self.database.complete(claim, now=self.now - DAY)
            self.store.put(claim.digest, b"the metainfo")

    def delete(self, *digests: Digest) -> None:
        for digest in digests:
            self.backend.remove(blob_path_of(digest.hex))

    def restore(self, seed: int) -> None:
        put_blob(self.backend, layer_bytes(100, seed))

    def prune(
        self, *, dry_run: bool = False, store: MetainfoStore | None = None, **settings: int
    ) -> PruneSummary:
        service = service_of(
            self.database.engine,
            self.database.tables,
            parts={
                "presence": self.presence or StoragePresence(self.backend.storage, BLOBS),
                "store": store or self.store,
                "clock": lambda _: self.now,
                "stop": self.stop,
            },
            jobs={"prune": {"grace": DAY, **settings}},
        )
        return prune(service, dry_run=dry_run)

    def known(self) -> set[Digest]:
        return {Digest.parse(digest) for digest in self.database.mapping()}

    def has_metainfo(self, digest: Digest) -> bool:
        try:
            return self.store.get(digest) == b"the metainfo"
        except MetainfoMissing:
            return False


@pytest.fixture
def brewed(database: Database, tmp_path: Path) -> Brewed:
    backend = DirectoryStorageBackend(tmp_path / "storage")
    return Brewed(database, backend, DirectoryStore(tmp_path / "metainfo"))


def counts(summary: PruneSummary) -> dict[str, int]:
    shown = ("there", "missed", "forgotten", "unanswered", "failed")
    return {name: getattr(summary, name) for name in shown if getattr(summary, name)}


def test_a_layer_missing_twice_is_forgotten_with_its_metainfo(brewed: Brewed) -> None:
    missing, *others = brewed.layers(5)
    brewed.delete(missing)

    assert counts(brewed.prune()) == {"there": 4, "missed": 1}
    assert missing in brewed.known()
    brewed.now += DAY - 1
    assert counts(brewed.prune()) == {"there": 4}
    assert missing in brewed.known()
    brewed.now += 1
    assert counts(brewed.prune()) == {"there": 4, "forgotten": 1}

    assert brewed.known() == set(others)
    assert not brewed.has_metainfo(missing)
    assert all(brewed.has_metainfo(digest) for digest in others)


def test_a_layer_that_reappears_in_time_stays(brewed: Brewed) -> None:
    digests = brewed.layers(3)
    brewed.delete(digests[0])
    assert brewed.prune().missed == 1
    for seed in range(3):
        brewed.restore(seed)
    brewed.now += DAY
    assert counts(brewed.prune()) == {"there": 3}
    # And its grace period starts again.
    brewed.delete(digests[0])
    brewed.now += DAY
    assert counts(brewed.prune()) == {"there": 2, "missed": 1}
    assert brewed.known() == set(digests)


def test_a_dry_run_reports_what_would_be_forgotten_and_changes_nothing(
    brewed: Brewed, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    missing, *_ = brewed.layers(3)
    brewed.delete(missing)
    assert counts(brewed.prune(dry_run=True)) == {"there": 2, "missed": 1}
    assert counts(brewed.prune(dry_run=True)) == {"there": 2, "missed": 1}
    brewed.prune()
    brewed.now += DAY

    dry = brewed.prune(dry_run=True)

    [message] = [line for line in caplog.messages if line.startswith("layer would be forgotten")]
    assert str(missing) in message
    assert str(dry).startswith("would forget 1, missed for the first time 0, there 2, unanswered 0")
    assert missing in brewed.known()
    assert brewed.has_metainfo(missing)
    assert brewed.prune().forgotten == 1


def test_a_run_stops_at_its_limit_and_the_next_continues(brewed: Brewed) -> None:
    digests = brewed.layers(25)
    brewed.delete(*digests)
    put_blob(brewed.backend, b"something else")

    assert [brewed.prune(limit=10).missed for _ in range(3)] == [10, 10, 5]
    brewed.now += DAY
    for _ in range(10):
        summary = brewed.prune(limit=10)
        assert summary.forgotten + summary.missed + summary.there <= 10
    assert brewed.known() == set()


def test_the_round_continues_despite_many_suspects(brewed: Brewed) -> None:
    digests = brewed.layers(20)
    brewed.delete(digests[-1])
    missed = 0
    for _ in range(10):
        with transaction(brewed.database.engine) as connection:
            suspect_layers(connection, brewed.database.tables, digests[:15], now=NOW)
        missed += brewed.prune(limit=4).missed
    assert missed == 1


def test_layers_reported_missing_are_checked_first(brewed: Brewed) -> None:
    digests = brewed.layers(20)
    brewed.delete(digests[-1])
    with transaction(brewed.database.engine) as connection:
        suspect_layers(connection, brewed.database.tables, [digests[-1], digests[-2]], now=NOW)

    assert counts(brewed.prune(limit=4)) == {"there": 3, "missed": 1}
    brewed.now += DAY
    assert brewed.prune(limit=4).forgotten == 1
    assert brewed.known() == set(digests[:-1])


def test_waiting_or_locked_layers_are_kept_and_those_set_aside_are_not(brewed: Brewed) -> None:
    put_blob(brewed.backend, b"something else")
    aside, waiting, locked = (digest_of(name) for name in "abc")
    brewed.database.enqueue(aside)
    brewed.database.set_aside(brewed.database.claim_one())
    brewed.database.enqueue(locked)
    brewed.database.claim_one()
    brewed.database.enqueue(waiting)

    assert brewed.prune().missed == 1
    brewed.now += DAY
    assert brewed.prune().forgotten == 1
    assert brewed.known() == {waiting, locked}


def test_a_forgotten_layer_pushed_again_is_found_by_the_next_scan(brewed: Brewed) -> None:
    [digest] = brewed.layers(1)
    put_blob(brewed.backend, b"something else")
    with transaction(brewed.database.engine) as connection:
        mark_seen(connection, brewed.database.tables, "team/app", [digest_of("manifest")], now=NOW)
    brewed.delete(digest)
    brewed.prune()
    brewed.now += DAY
    assert brewed.prune().forgotten == 1

    with transaction(brewed.database.engine) as connection:
        tables = brewed.database.tables
        assert seen_manifests(connection, tables, "team/app", [digest_of("manifest")]) == set()
    assert brewed.database.enqueue(digest) == 1
    assert brewed.database.layer(digest).state == "waiting"


class LookingAt:
    """A presence checker that calls a function right after it has checked everywhere."""

    def __init__(self, presence: PresenceChecker, happening: Callable[[str], object]) -> None:
        self._presence = presence
        self._happening = happening

    def check(self) -> None:
        self._presence.check()

    def locate(self, layer: Layer) -> PresenceResult:
        return self._presence.locate(layer)

    def locate_everywhere(
        self, layers: Sequence[Layer], over: Callable[[], bool]
    ) -> Iterator[PresenceResult]:
        for look in self._presence.locate_everywhere(layers, over):
            self._happening(look.layer.digest)
            yield look


def test_a_push_between_the_last_check_and_the_removal_is_not_lost(brewed: Brewed) -> None:
    digests = brewed.layers(2)
    put_blob(brewed.backend, b"something else")
    brewed.delete(*digests)
    brewed.prune()
    brewed.now += DAY
    presence = StoragePresence(brewed.backend.storage, BLOBS)

    def push(digest: str) -> None:
        if digest == digests[0]:
            # The same layer to the same repository: nothing new is written.
            brewed.database.enqueue(digest, scope="team/app", now=brewed.now)

    brewed.presence = LookingAt(presence, push)
    assert counts(brewed.prune()) == {"there": 1, "forgotten": 1}
    assert brewed.known() == {digests[0]}
    assert brewed.has_metainfo(digests[0])


@dataclass
class BrokenStore:
    """A store that cannot delete."""

    store: DirectoryStore

    def put(self, digest: Digest, data: bytes) -> None:
        self.store.put(digest, data)

    def get(self, digest: Digest) -> bytes:
        return self.store.get(digest)

    def delete(self, digest: Digest) -> None:
        raise StoreFailed("s3://metainfo", "access denied")

    def check(self) -> str:
        return "broken"


def test_a_layer_stays_until_its_metainfo_can_be_deleted(brewed: Brewed) -> None:
    [missing, other] = brewed.layers(2)
    brewed.delete(missing)
    brewed.prune()
    brewed.now += DAY

    assert counts(brewed.prune(store=BrokenStore(brewed.store))) == {"there": 1, "failed": 1}
    assert brewed.database.layer(missing).state == "brewed"
    assert brewed.has_metainfo(missing)
    assert counts(brewed.prune()) == {"there": 1, "forgotten": 1}
    assert brewed.known() == {other}


def test_a_run_killed_after_storing_the_metainfo_is_completed_by_the_next(brewed: Brewed) -> None:
    [missing, other] = brewed.layers(2)
    brewed.delete(missing)
    brewed.prune()
    brewed.now += DAY
    # The state then: the metainfo is deleted, and nothing is committed.
    brewed.store.delete(missing)

    assert brewed.prune().forgotten == 1
    assert brewed.known() == {other}


def test_an_empty_storage_does_not_count(brewed: Brewed) -> None:
    digests = brewed.layers(3)
    brewed.delete(*digests)
    with pytest.raises(RemoteError, match="no blobs"):
        brewed.prune()


def test_a_missing_storage_does_not_count(brewed: Brewed) -> None:
    digests = brewed.layers(3)
    brewed.backend.root.rename(brewed.backend.root.with_name("unmounted"))
    with pytest.raises(RemoteError):
        brewed.prune()
    assert brewed.known() == set(digests)


class NoAnswers:
    """A presence checker that gets `error` for each layer; the registry is up or `down`."""

    def __init__(self, *, down: bool, error: RemoteError | None = None) -> None:
        self.error = error or TimedOut("registry", 5)
        self.looked = 0
        self.checked = 0
        self.down = down

    def check(self) -> None:
        self.checked += 1
        # The first check is that of the run: the registry goes down afterwards.
        if self.down and self.checked > 1:
            raise Unavailable("registry", "status 503")

    def locate(self, layer: Layer) -> PresenceResult:
        self.looked += 1
        return PresenceResult(layer, "unanswered", error=self.error)

    def locate_everywhere(
        self, layers: Sequence[Layer], over: Callable[[], bool]
    ) -> Iterator[PresenceResult]:
        return map(self.locate, layers)


def test_a_registry_that_goes_down_ends_the_run_without_removals(brewed: Brewed) -> None:
    digests = brewed.layers(60)
    brewed.delete(digests[0])
    brewed.prune()
    brewed.now += DAY
    silent = brewed.presence = NoAnswers(down=True)

    summary = brewed.prune()

    assert 0 < summary.unanswered == silent.looked < 60
    assert was_paused(summary)
    assert (summary.forgotten, summary.missed) == (0, 0)
    brewed.presence = None
    assert brewed.prune().forgotten == 0
    brewed.now += 3600
    assert brewed.prune().forgotten == 1
    assert brewed.known() == set(digests[1:])


def test_layers_without_an_answer_do_not_hide_the_others_while_the_registry_is_up(brewed: Brewed) -> None:
    brewed.layers(60)
    unanswering = brewed.presence = NoAnswers(down=False)

    summary = brewed.prune()

    assert (summary.unanswered, unanswering.looked, summary.missed) == (60, 60, 0)


def test_a_registry_that_limits_requests_ends_the_run(brewed: Brewed) -> None:
    brewed.layers(3)
    limited = NoAnswers(down=False, error=TooManyRequests("registry", "status 429"))
    brewed.presence = limited

    summary = brewed.prune()

    assert (summary.unanswered, limited.looked) == (1, 1)
    assert "status 429" in str(summary.paused)


def test_a_longer_grace_applies_to_layers_missed_before(brewed: Brewed) -> None:
    missing, *_ = brewed.layers(2)
    brewed.delete(missing)
    brewed.prune()
    brewed.now += DAY
    assert brewed.prune(grace=2 * DAY).forgotten == 0
    brewed.now += DAY
    assert brewed.prune(grace=2 * DAY).forgotten == 1


def test_a_stopped_run_forgets_nothing_further(brewed: Brewed) -> None:
    digests = brewed.layers(4)
    put_blob(brewed.backend, b"something else")
    brewed.delete(*digests)
    brewed.prune()
    brewed.now += DAY
    presence = StoragePresence(brewed.backend.storage, BLOBS)
    looked: list[str] = []

    def stop(digest: str) -> None:
        looked.append(digest)
        if len(looked) == 3:
            brewed.stop.set()

    brewed.presence = LookingAt(presence, stop)
    assert brewed.prune().forgotten == 2
    brewed.stop.clear()
    brewed.presence = None
    assert brewed.prune().forgotten == 2


def test_two_runs_at_once_forget_each_layer_once(brewed: Brewed) -> None:
    digests = brewed.layers(30)
    put_blob(brewed.backend, b"something else")
    brewed.delete(*digests)
    brewed.prune()
    brewed.now += DAY
    summaries: list[PruneSummary] = []
    runs = [threading.Thread(target=lambda: summaries.append(brewed.prune())) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()

    assert sum(summary.forgotten for summary in summaries) == 30
    assert brewed.known() == set()


def delete_blob(registry: Registry, scope: str, digest: str) -> None:
    requests.delete(f"{registry.url}/v2/{scope}/blobs/{digest}", timeout=60).raise_for_status()


def test_a_layer_in_an_unknown_repository_is_not_forgotten(brewed: Brewed, tmp_path: Path) -> None:
    content = layer_bytes(1000, 1)
    digest = layer_of(content).digest
    with start_registry(tmp_path / "registry", delete=True) as registry:
        push_image(registry, "team/known", "v1", [content])
        push_blob(registry, "team/unknown", content)
        brewed.brew(digest, scope="team/known")
        delete_blob(registry, "team/known", digest)
        with client_of(registry.netloc) as client:
            brewed.presence = RegistryPresence(client)
            assert counts(brewed.prune()) == {"missed": 1}
            brewed.now += DAY
            assert counts(brewed.prune()) == {"there": 1}
            assert brewed.database.layer(digest).scopes == ("team/known", "team/unknown")
            # Its repository is known now.
            brewed.now += DAY
            assert counts(brewed.prune()) == {"there": 1}

            delete_blob(registry, "team/unknown", digest)
            assert counts(brewed.prune()) == {"missed": 1}
            brewed.now += DAY
            assert counts(brewed.prune()) == {"forgotten": 1}
    assert brewed.known() == set()
    assert not brewed.has_metainfo(digest)


def test_a_layer_in_a_repository_with_an_invalid_name_is_not_forgotten(
    brewed: Brewed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = layer_bytes(1000, 1)
    digest = layer_of(content).digest
    with start_registry(tmp_path / "registry", delete=True) as registry:
        push_image(registry, "team/known", "v1", [content])
        # The registry accepts it: a first part with capitals may be a host name.
        push_image(registry, "Mirror/app", "v1", [content])
        brewed.brew(digest, scope="team/known")
        delete_blob(registry, "team/known", digest)
        with client_of(registry.netloc) as client:
            brewed.presence = RegistryPresence(client)
            assert counts(brewed.prune()) == {"missed": 1}
            brewed.now += DAY
            assert counts(brewed.prune()) == {"unanswered": 1}
    assert brewed.known() == {digest}
    assert "Mirror/app" in caplog.text


@dataclass
class Unanswering:
    """A presence checker that gets no answer for some layers, or is refused."""

    digests: set[str]
    error: RemoteError
    looked: set[str] = field(default_factory=set)

    def check(self) -> None:
        pass

    def locate(self, layer: Layer) -> PresenceResult:
        self.looked.add(layer.digest)
        if layer.digest in self.digests:
            return PresenceResult(layer, "unanswered", error=self.error)
        return PresenceResult(layer, "there", "team/app")

    def locate_everywhere(
        self, layers: Sequence[Layer], over: Callable[[], bool]
    ) -> Iterator[PresenceResult]:
        return map(self.locate, layers)


@pytest.mark.parametrize("error", [Refused("registry", 403, "access denied"), TimedOut("registry", 5)])
def test_unanswered_neighbours_do_not_halt_the_round(brewed: Brewed, error: RemoteError) -> None:
    digests = brewed.layers(100)
    presence = brewed.presence = Unanswering(set(digests[10:40]), error)
    for _ in range(3):
        brewed.prune()
    assert presence.looked == set(digests)


def test_the_last_check_ends_when_the_run_is_stopped(brewed: Brewed, tmp_path: Path) -> None:
    content = layer_bytes(1000, 1)
    digest = layer_of(content).digest
    with start_registry(tmp_path / "registry", delete=True) as registry:
        push_image(registry, "team/app", "v1", [content])
        for number in range(10):
            push_image(registry, f"other/app{number}", "v1", [layer_bytes(1000, 2)])
        brewed.brew(digest)
        delete_blob(registry, "team/app", digest)
        with client_of(registry.netloc) as client:
            brewed.presence = RegistryPresence(StoppedMeanwhile(client, brewed.stop, questions=5))
            assert counts(brewed.prune()) == {"missed": 1}
            brewed.now += DAY
            assert counts(brewed.prune()) == {}
    assert brewed.known() == {digest}


@dataclass
class StoppedMeanwhile:
    """A registry that stops the run after a few requests."""

    registry: RegistryClient
    stop: threading.Event
    questions: int

    def ping(self) -> str:
        return self.registry.ping()

    def list_repositories(self, *, complete: bool) -> Iterator[str]:
        return self.registry.list_repositories(complete=complete)

    def blob_size(self, scope: str, digest: Digest) -> int | None:
        self.questions -= 1
        assert self.questions >= 0, "it goes on asking"
        if not self.questions:
            self.stop.set()
        return self.registry.blob_size(scope, digest)


def test_a_layer_pushed_to_a_repository_created_during_the_last_check_is_not_forgotten(
    brewed: Brewed, tmp_path: Path
) -> None:
    content = layer_bytes(1000, 1)
    digest = layer_of(content).digest
    with start_registry(tmp_path / "registry", delete=True) as registry:
        push_image(registry, "team/known", "v1", [content])
        brewed.brew(digest, scope="team/known")
        delete_blob(registry, "team/known", digest)
        with client_of(registry.netloc) as client:
            asker = PushedMeanwhile(client, lambda: push_blob(registry, "team/new", content))
            brewed.presence = RegistryPresence(asker)
            assert counts(brewed.prune()) == {"missed": 1}
            brewed.now += DAY
            # The push causes no event, and the catalog was read before it.
            assert counts(brewed.prune()) == {"there": 1}
    assert brewed.database.layer(digest).scopes == ("team/known", "team/new")
    assert brewed.has_metainfo(digest)


@dataclass
class PushedMeanwhile:
    """A registry with a push right after its catalog was first read."""

    client: RegistryClient
    push: Callable[[], object]
    pushed: bool = False

    def ping(self) -> str:
        return self.client.ping()

    def blob_size(self, scope: str, digest: Digest) -> int | None:
        return self.client.blob_size(scope, digest)

    def list_repositories(self, *, complete: bool) -> Iterator[str]:
        yield from self.client.list_repositories()
        if not self.pushed:
            self.pushed = True
            self.push()


def seen_in(brewed: Brewed, *digests: Digest) -> set[str]:
    with transaction(brewed.database.engine) as connection:
        return seen_manifests(connection, brewed.database.tables, "team/app", digests)


def test_manifests_read_long_ago_are_read_again_in_batches(
    brewed: Brewed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.prune._MAX_READ_AGAIN", 2)
    brewed.layers(1)
    manifests = [digest_of(name) for name in "abcd"]
    with transaction(brewed.database.engine) as connection:
        for age, manifest in enumerate(manifests):
            mark_seen(connection, brewed.database.tables, "team/app", [manifest], now=NOW - age)

    brewed.now += 30 * DAY - 2
    brewed.prune()
    assert seen_in(brewed, *manifests) == set(manifests[:3])
    brewed.now += 3
    brewed.prune(dry_run=True)
    assert seen_in(brewed, *manifests) == set(manifests[:3])
    brewed.prune()
    assert seen_in(brewed, *manifests) == set(manifests[:1])
    brewed.prune()
    assert seen_in(brewed, *manifests) == set()


def test_a_registry_that_is_down_ends_the_run(brewed: Brewed, tmp_path: Path) -> None:
    digests = brewed.layers(3)
    with start_registry(tmp_path / "registry") as registry, client_of(registry.netloc) as client:
        registry.stop()
        brewed.presence = RegistryPresence(client)
        with pytest.raises(RemoteError):
            brewed.prune()
    assert brewed.known() == set(digests)


def test_an_empty_registry_causes_no_removals(brewed: Brewed, tmp_path: Path) -> None:
    digests = brewed.layers(3)
    with start_registry(tmp_path / "registry") as registry, client_of(registry.netloc) as client:
        brewed.presence = RegistryPresence(client)
        brewed.prune()
        brewed.now += DAY
        assert counts(brewed.prune()) == {"unanswered": 3}
    assert brewed.known() == set(digests)


def test_a_registry_that_refuses_the_credentials_causes_no_removals(brewed: Brewed, tmp_path: Path) -> None:
    digests = brewed.layers(3)
    with (
        start_registry(tmp_path / "registry", htpasswd={"brewer": "right"}) as registry,
        client_of(registry.netloc, "brewer", "wrong") as client,
    ):
        brewed.presence = RegistryPresence(client)
        with pytest.raises(RemoteError):
            brewed.prune()
    assert brewed.known() == set(digests)


def test_a_failing_storage_does_not_mean_that_a_layer_is_missing(brewed: Brewed) -> None:
    digests = brewed.layers(3)
    brewed.delete(digests[0])
    brewed.prune()
    brewed.now += DAY
    failing = StoragePresence(FailingSizes(brewed.backend.storage), BLOBS)
    brewed.presence = failing

    assert counts(brewed.prune()) == {"unanswered": 3}
    assert brewed.known() == set(digests)


class FailingSizes:
    """A storage that lists its files but cannot read them."""

    parallel = False

    def __init__(self, storage: BlobStorage) -> None:
        self.files = storage.files

    def size(self, layer: Layer) -> int:
        raise Unavailable("disk", "input/output error")

    def open(self, layer: Layer, offset: int, length: int | None = None) -> Any:
        raise Unavailable("disk", "input/output error")

    def check(self) -> str:
        return "out of order"
