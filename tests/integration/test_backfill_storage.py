"""Layers in a registry's storage: all of them are queued once, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.blobs.directory import DirectoryBlobs, FileReader
from core.blobs.source import StoredFile
from core.errors import DockerTorrentsError, Refused, SizeMismatch, Unavailable
from core.layer import Layer
from jobs.backfill_storage import StorageScan, StorageSummary, backfill_storage
from sql.tables import Priority
from tests.integration.sql.database import NOW, Database
from tests.layer_backends import TEMPLATE
from tests.servers.layers import layer_bytes, layer_tar
from tests.servers.moto import Moto
from tests.servers.push import push_image, push_index
from tests.servers.registry import Registry, start_registry
from tests.services import service_of
from tests.storage_backends import (
    REPOSITORIES,
    DirectoryStorageBackend,
    StorageBackend,
    blob_path_of,
    mds_storage_backend,
    put_blob,
    s3_storage_backend,
)


@pytest.fixture
def backend(tmp_path: Path) -> DirectoryStorageBackend:
    return DirectoryStorageBackend(tmp_path / "storage")


def scan_of(
    database: Database, backend: StorageBackend | Registry, *, stop: threading.Event | None = None, **how: Any
) -> StorageScan:
    if isinstance(backend, Registry):
        backend = DirectoryStorageBackend(backend.storage)
    parts = {"clock": lambda _: NOW, "stop": stop or threading.Event()}
    service = service_of(database.engine, database.tables, parts=parts, db={"blob_path_template": TEMPLATE})
    return replace(StorageScan(service, backend.storage), **how)


def backfill(database: Database, backend: StorageBackend | Registry, **how: Any) -> StorageSummary:
    return backfill_storage(scan_of(database, backend, **how))


class ListedBefore(DirectoryBlobs):
    """Calls a function before the file of a number is listed: a failure, a signal, a deletion."""

    def __init__(self, root: Path, number: int, happening: Callable[[], object]) -> None:
        super().__init__(root, TEMPLATE)
        self._number = number
        self._happening = happening

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        for number, file in enumerate(super().files(folder, skipping)):
            if number == self._number:
                self._happening()
            yield file


class CountingSource(DirectoryBlobs):
    """Counts the blobs read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, TEMPLATE)
        self.opened: list[str] = []

    def open(self, layer: Layer, offset: int, length: int | None = None) -> FileReader:
        self.opened.append(str(layer.digest))
        return super().open(layer, offset, length)


class StoppingSource(CountingSource):
    """Stops the run after some blobs."""

    def __init__(self, root: Path, stop: threading.Event, after: int) -> None:
        super().__init__(root)
        self._stop = stop
        self._after = after

    def open(self, layer: Layer, offset: int, length: int | None = None) -> FileReader:
        if len(self.opened) == self._after:
            self._stop.set()
        return super().open(layer, offset, length)


class FailingSource(DirectoryBlobs):
    """Fails to read some or all blobs."""

    def __init__(self, root: Path, error: Exception, only: frozenset[str] | None = None) -> None:
        super().__init__(root, TEMPLATE)
        self._error = error
        self._only = only

    def open(self, layer: Layer, offset: int, length: int | None = None) -> FileReader:
        if self._only is None or str(layer.digest) in self._only:
            raise self._error
        return super().open(layer, offset, length)


def raising(error: Exception) -> Callable[[], None]:
    def happen() -> None:
        raise error

    return happen


def test_layers_of_a_real_registry_are_queued_with_size_and_repositories(
    tmp_path: Path, database: Database
) -> None:
    layers = [layer_tar({"a": layer_bytes(3000, 1)}), layer_bytes(5000, 2), layer_tar({"b": b"b"})]
    with start_registry(tmp_path) as registry:
        one = push_image(registry, "team/one", "v1", layers[:2])
        other = push_image(registry, "team/other", "v1", layers[1:], media="oci", platform="linux/arm64")
        push_index(registry, "team/one", "all", [one.descriptor])

        summary = backfill(database, registry)

        known = database.mapping()
        assert set(known) == {layer.digest for layer in (*one.layers, *other.layers)}
        shared = database.layer(one.layers[1].digest)
        assert (shared.state, shared.priority, shared.size) == ("waiting", Priority.BACKFILLED, 5000)
        assert shared.scopes == ("team/one", "team/other")
    # Two configs, two manifests and an index.
    assert (summary.queued, summary.known, summary.others, summary.foreign) == (3, 0, 5, 0)
    assert summary.bytes == sum(len(layer) for layer in layers)
    assert summary.failed == 0


def test_layers_in_the_bucket_of_a_real_registry_are_found(
    tmp_path: Path, moto: Moto, bucket: str, database: Database
) -> None:
    storage = moto.registry_storage(bucket)
    storage["rootdirectory"] = "/registries/one"
    with start_registry(tmp_path, s3=storage) as registry, s3_storage_backend(moto, bucket) as backend:
        image = push_image(registry, "team/one", "v1", [layer_bytes(2000, 1), layer_bytes(3000, 2)])

        summary = backfill(database, backend)

        assert set(database.mapping()) == {layer.digest for layer in image.layers}
        assert database.layer(image.layers[0].digest).scopes == ("team/one",)
    assert (summary.queued, summary.others) == (2, 2)


def test_layers_in_the_tables_of_mds_are_found(database: Database) -> None:
    with mds_storage_backend(database.engine, database.tables) as backend:
        layer = put_blob(backend, layer_bytes(2000, 1), "team/one", "team/two")
        put_blob(backend, json.dumps({"architecture": "amd64"}).encode(), "team/one")
        missing = put_blob(backend, layer_bytes(2000, 2), "team/one")
        backend.remove(blob_path_of(missing[7:]))
        backend.put(f"{REPOSITORIES}/team/one/_uploads/1/data", b"1")

        summary = backfill(database, backend)

        assert set(database.mapping()) == {layer}
        assert database.layer(layer).scopes == ("team/one", "team/two")
    assert (summary.queued, summary.others, summary.uploads) == (1, 1, 1)


def test_partial_uploads_and_foreign_files_are_counted_and_skipped(
    database: Database, backend: DirectoryStorageBackend
) -> None:
    layer = put_blob(backend, layer_bytes(2000, 1), "team/one")
    put_blob(backend, b"")
    blobs = "docker/registry/v2/blobs/sha256"
    for path in (f"{blobs}/.DS_Store", f"{blobs}/ab/{'ab' * 32}/data.tmp", f"{blobs}/ab/{'cd' * 32}/data"):
        backend.put(path, b"\x1f\x8b foreign")
    (backend.root / blobs / "ff").symlink_to("/etc/passwd")
    for upload in ("1111", "2222"):
        for name in ("data", "startedat", "hashstates/sha256/0"):
            backend.put(f"{REPOSITORIES}/team/one/_uploads/{upload}/{name}", b"1")
    backend.put(f"{REPOSITORIES}/Not A Name/_layers/sha256/{layer[7:]}/link", b"1")

    summary = backfill(database, backend)

    assert set(database.mapping()) == {layer}
    assert database.layer(layer).scopes == ("team/one",)
    assert (summary.foreign, summary.uploads, summary.others, summary.failed) == (4, 2, 1, 0)


def test_a_dry_run_counts_and_writes_nothing(database: Database, backend: DirectoryStorageBackend) -> None:
    known = put_blob(backend, layer_bytes(1000, 1), "team/one")
    put_blob(backend, layer_bytes(2000, 2), "team/one")
    put_blob(backend, b"{}", "team/one")
    database.enqueue(known, scope=None)

    summary = backfill(database, backend, dry_run=True)

    assert str(summary).startswith("would queue 1 layers (0.0 MB), known 1, other blobs 1,")
    assert summary.bytes == 2000
    assert set(database.mapping()) == {known}
    assert database.layer(known).scopes == ()


def test_the_limit_is_kept_and_the_next_run_continues(
    database: Database, backend: DirectoryStorageBackend
) -> None:
    digests = {put_blob(backend, layer_bytes(1000, seed), "team/one") for seed in range(25)}

    first = backfill(database, backend, limit=10)
    assert (first.queued, len(database.mapping())) == (10, 10)
    second = backfill(database, backend, limit=10)
    assert (second.queued, second.known) == (10, 10)
    third = backfill(database, backend)
    assert (third.queued, third.known) == (5, 20)

    assert set(database.mapping()) == digests
    assert {database.layer(digest).scopes for digest in digests} == {("team/one",)}


def test_known_manifests_are_not_read_again(database: Database, backend: DirectoryStorageBackend) -> None:
    for seed in range(5):
        put_blob(backend, layer_bytes(1000, seed))
    config = put_blob(backend, b'{"a": 1}')
    backfill(database, backend)
    new = put_blob(backend, layer_bytes(1000, 5))
    source = CountingSource(backend.root)

    summary = backfill(database, backend, storage=source)

    # Configs are read again: blobs that are not layers are not recorded.
    assert sorted(source.opened) == sorted([config, new])
    assert (summary.queued, summary.known) == (1, 5)


def test_brewed_or_more_urgent_layers_do_not_change(
    database: Database, backend: DirectoryStorageBackend
) -> None:
    brewed, asked = (put_blob(backend, layer_bytes(1000, seed), "team/one") for seed in range(2))
    database.enqueue(brewed)
    database.complete(database.claim_one(), rbtorrent_id="rbtorrent:aa")
    database.enqueue(asked, priority=Priority.ASKED)

    summary = backfill(database, backend)

    assert (summary.queued, summary.known) == (0, 2)
    assert database.layer(brewed).rbtorrent_id == "rbtorrent:aa"
    assert database.layer(asked).priority == Priority.ASKED
    assert "team/one" in database.layer(brewed).scopes


def test_a_listing_that_fails_half_way_keeps_what_was_queued_and_reports_it(
    database: Database, backend: DirectoryStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.backfill_storage._BATCH", 4)
    digests = {put_blob(backend, layer_bytes(1000, seed), "team/one") for seed in range(20)}
    breaking = ListedBefore(backend.root, 10, raising(Unavailable("s3://bucket/", "connection lost")))

    broken = backfill(database, backend, storage=breaking)

    assert (broken.queued, broken.failed) == (10, 1)
    assert str(broken).endswith(
        "the storage failed, run it again to continue: s3://bucket/: unavailable: connection lost"
    )
    assert len(database.mapping()) == 10
    whole = backfill(database, backend)
    assert (whole.queued, whole.known, whole.failed) == (10, 10, 0)
    assert set(database.mapping()) == digests


def test_a_stopped_run_ends_and_the_next_continues(
    database: Database, backend: DirectoryStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.backfill_storage._BATCH", 4)
    digests = {put_blob(backend, layer_bytes(1000, seed)) for seed in range(20)}
    stop = threading.Event()

    stopped = backfill(database, backend, stop=stop, storage=ListedBefore(backend.root, 9, stop.set))

    assert str(stopped).endswith("interrupted: run it again to continue")
    assert 0 < stopped.queued < 20
    assert len(database.mapping()) == stopped.queued
    assert backfill(database, backend).queued == 20 - stopped.queued
    assert set(database.mapping()) == digests


def test_a_run_that_continues_another_reads_nothing_twice(
    database: Database, backend: DirectoryStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.layer_detection._SECONDS", 0)
    for seed in range(20):
        put_blob(backend, layer_bytes(1000, seed) if seed % 2 else json.dumps({"a": seed}).encode())
    stop = threading.Event()
    stopped = StoppingSource(backend.root, stop, after=12)
    backfill(database, backend, storage=stopped, stop=stop)

    rest = CountingSource(backend.root)
    summary = backfill(database, backend, storage=rest)

    assert len(rest.opened) == 20 - len(stopped.opened)
    assert not {*stopped.opened} & {*rest.opened}
    assert (summary.others, len(database.mapping())) == (10, 10)
    # A run after one that came to the end reads again what it does not know.
    assert backfill(database, backend).others == 10


def test_what_was_read_is_queued_after_a_while_however_slow_reading_is(
    database: Database, backend: DirectoryStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.layer_detection._SECONDS", 0)
    for seed in range(5):
        put_blob(backend, layer_bytes(1000, seed))
    queued: list[int] = []

    class Looking(CountingSource):
        def open(self, layer: Layer, offset: int, length: int | None = None) -> FileReader:
            queued.append(len(database.mapping()))
            return super().open(layer, offset, length)

    backfill(database, backend, storage=Looking(backend.root))

    assert queued == [0, 1, 2, 3, 4]


def test_a_folder_that_cannot_be_listed_hides_no_later_blobs(
    database: Database, backend: DirectoryStorageBackend
) -> None:
    class Partial(DirectoryBlobs):
        def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
            yield from super().files(folder, skipping)
            raise Refused("folder", None, "permission denied")

    put_blob(backend, b'{"a": 1}')
    digests = {put_blob(backend, layer_bytes(1000, seed)) for seed in range(5)}
    storage = Partial(backend.root, TEMPLATE)
    assert backfill(database, backend, storage=storage).failed == 1
    digests |= {put_blob(backend, layer_bytes(1000, seed)) for seed in range(5, 10)}

    summary = backfill(database, backend, storage=storage)

    assert (summary.queued, summary.failed) == (5, 1)
    assert set(database.mapping()) == digests


def test_a_blob_that_vanishes_between_listing_and_reading_is_skipped(
    database: Database, backend: DirectoryStorageBackend
) -> None:
    digests = sorted(put_blob(backend, layer_bytes(1000, seed)) for seed in range(3))
    vanishing = ListedBefore(backend.root, 2, lambda: backend.remove(blob_path_of(digests[0][7:])))

    summary = backfill(database, backend, storage=vanishing)

    assert set(database.mapping()) == set(digests[1:])
    assert summary.failed == 0


@pytest.mark.parametrize("error", [Refused("disk", None, "not yours"), SizeMismatch(1000, 999)])
def test_an_unreadable_blob_is_counted_and_others_are_queued(
    database: Database, backend: DirectoryStorageBackend, error: DockerTorrentsError
) -> None:
    digests = {put_blob(backend, layer_bytes(1000, seed)) for seed in range(30)}
    bad = min(digests)

    summary = backfill(
        database,
        backend,
        storage=FailingSource(backend.root, error, only=frozenset({bad})),
    )

    assert (summary.queued, summary.unread, summary.failed, summary.broken) == (29, 1, 1, None)
    assert set(database.mapping()) == digests - {bad}


def test_many_blobs_in_a_row_that_cannot_be_read_hide_none_behind_them(
    database: Database, backend: DirectoryStorageBackend
) -> None:
    digests = sorted(put_blob(backend, layer_bytes(100, seed)) for seed in range(60))
    broken = frozenset(digests[5:50])

    failing = FailingSource(backend.root, Unavailable("disk", "input/output error"), only=broken)
    summary = backfill(database, backend, storage=failing)

    assert (summary.queued, summary.unread, summary.broken) == (15, 45, None)


@pytest.mark.parametrize("limit", [5, None])
def test_a_storage_that_lists_but_serves_no_blob_ends_the_run_early(
    database: Database, backend: DirectoryStorageBackend, limit: int | None
) -> None:
    for seed in range(100):
        put_blob(backend, layer_bytes(100, seed))

    failing = FailingSource(backend.root, Unavailable("disk", "input/output error"))
    summary = backfill(database, backend, storage=failing, limit=limit)

    assert summary.broken == "disk: unavailable: input/output error"
    assert 0 < summary.unread < 50
    assert database.mapping() == {}


def test_a_stopped_run_reads_no_more_blobs(database: Database, backend: DirectoryStorageBackend) -> None:
    digests = {put_blob(backend, layer_bytes(100, seed)) for seed in range(200)}
    stop = threading.Event()
    source = StoppingSource(backend.root, stop, after=10)

    summary = backfill(database, backend, storage=source, stop=stop)

    assert summary.interrupted
    assert 10 <= summary.queued == len(database.mapping()) < 50
    assert backfill(database, backend).queued == 200 - summary.queued
    assert set(database.mapping()) == digests


def test_two_runs_at_once_queue_everything_once(database: Database, backend: DirectoryStorageBackend) -> None:
    digests = {put_blob(backend, layer_bytes(200, seed), "team/one") for seed in range(300)}
    summaries: list[StorageSummary] = []
    runs = [threading.Thread(target=lambda: summaries.append(backfill(database, backend))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()

    assert sum(summary.queued for summary in summaries) == 300
    assert set(database.mapping()) == digests
    assert sum(summary.links for summary in summaries) == 300
