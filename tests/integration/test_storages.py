"""Listing the files of a registry's storage: a directory, S3 and the tables of MDS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.blobs.directory import DirectoryBlobs
from core.blobs.s3 import S3Blobs
from core.blobs.source import StoredFile
from core.errors import ConnectionCut, Refused, Unavailable
from core.s3 import Bucket, s3_client
from sql.engine import create_engine_for
from tests.layer_backends import CONNECT_TIMEOUT, READ_TIMEOUT, TEMPLATE, making_sources
from tests.servers.bad_http import hanging_up, html, misstating_length, replying, sending
from tests.servers.http_server import Connection, Request, start_http_server
from tests.servers.moto import Moto
from tests.storage_backends import (
    DirectoryStorageBackend,
    MdsStorageBackend,
    S3StorageBackend,
    StorageBackend,
    mds_storage_backend,
    s3_storage_backend,
)

FOLDER = "docker/registry/v2/blobs/sha256"


@pytest.fixture
def directory(tmp_path: Path) -> DirectoryStorageBackend:
    return DirectoryStorageBackend(tmp_path / "storage")


@pytest.fixture
def s3(moto: Moto, bucket: str) -> Iterator[S3StorageBackend]:
    with s3_storage_backend(moto, bucket) as backend:
        yield backend


@contextmanager
def mds_in(url: str) -> Iterator[MdsStorageBackend]:
    engine = create_engine_for(url=url)
    with mds_storage_backend(engine) as backend:
        yield backend
    engine.dispose()


@pytest.fixture
def mds(tmp_path: Path) -> Iterator[MdsStorageBackend]:
    with mds_in(f"sqlite:///{tmp_path / 'mds.sqlite'}") as backend:
        yield backend


@pytest.fixture
def mds_on_postgres(postgres_url: str) -> Iterator[MdsStorageBackend]:
    with mds_in(postgres_url) as backend:
        yield backend


@pytest.fixture(params=["directory", "s3", "mds", "mds_on_postgres"])
def backend(request: pytest.FixtureRequest) -> StorageBackend:
    found: StorageBackend = request.getfixturevalue(request.param)
    return found


def paths(backend: StorageBackend, folder: str = FOLDER) -> list[str]:
    return [file.path for file in backend.storage.files(folder)]


def test_every_file_below_the_folder_is_listed_once_in_order_with_its_size(backend: StorageBackend) -> None:
    names = [f"{FOLDER}/{number:02x}/{number:064x}/data" for number in range(8)]
    for number, name in reversed(list(enumerate(names))):
        backend.put(name, bytes(number))

    listed = list(backend.storage.files(FOLDER))

    assert listed == [StoredFile(name, number) for number, name in enumerate(names)]


def test_files_outside_the_folder_are_not_listed(backend: StorageBackend) -> None:
    for path in (f"{FOLDER}/aa/data", f"{FOLDER}x/data", "docker/registry/v2/repositories/a/_layers/link"):
        backend.put(path, b"1")

    assert paths(backend) == [f"{FOLDER}/aa/data"]


def test_names_with_special_characters_are_listed_unchanged(
    backend: StorageBackend,
) -> None:
    folder = "a_b%c"
    names = [f"{folder}/x y+z", f"{folder}/%41", f"{folder}/ümlaut", f"{folder}/_", "aXbYc/other"]
    for name in names:
        backend.put(name, b"1")

    assert sorted(paths(backend, folder)) == sorted(names[:-1])


def test_missing_blobs_are_not_listed(backend: StorageBackend) -> None:
    backend.put(f"{FOLDER}/aa/data", b"1")
    backend.put(f"{FOLDER}/bb/data", b"1")
    backend.remove(f"{FOLDER}/aa/data")

    assert paths(backend) == [f"{FOLDER}/bb/data"]


def test_folders_to_skip_are_not_walked_in_a_directory(directory: DirectoryStorageBackend) -> None:
    directory.put("repositories/a/_layers/link", b"1")
    directory.put("repositories/a/_manifests/tags/latest/link", b"1")
    (directory.root / "repositories/a/_manifests").chmod(0)

    listed = directory.storage.files("repositories", frozenset({"_manifests"}))

    assert [file.path for file in listed] == ["repositories/a/_layers/link"]


def test_folders_in_the_tables_of_mds_are_not_files(mds: MdsStorageBackend) -> None:
    mds.put_folder(f"{FOLDER}/aa")
    mds.put(f"{FOLDER}/aa/data", b"1")

    assert paths(mds) == [f"{FOLDER}/aa/data"]


def test_a_missing_tree_is_a_failure_not_an_empty_list(tmp_path: Path) -> None:
    (tmp_path / "not-mounted").mkdir()
    with pytest.raises(Unavailable, match="blobs"):
        list(DirectoryBlobs(tmp_path / "not-mounted", TEMPLATE).files(FOLDER))


def test_links_to_directories_are_followed_but_not_in_circles(
    directory: DirectoryStorageBackend, tmp_path: Path
) -> None:
    other_disk = tmp_path / "other-disk"
    (other_disk / "cc").mkdir(parents=True)
    (other_disk / "cc/data").write_bytes(b"12")
    directory.put(f"{FOLDER}/aa/data", b"1")
    folder = directory.root / FOLDER
    (folder / "bb").symlink_to(other_disk)
    (other_disk / "back").symlink_to(folder)
    (other_disk / "itself").symlink_to(other_disk / "itself")

    listed = list(directory.storage.files(FOLDER))

    assert StoredFile(f"{FOLDER}/bb/cc/data", 2) in listed
    assert StoredFile(f"{FOLDER}/bb/itself", None) in listed
    assert len(listed) < 10


def test_only_a_regular_file_has_a_size(directory: DirectoryStorageBackend) -> None:
    directory.put(f"{FOLDER}/aa/data", b"1")
    (directory.root / FOLDER / "bb").symlink_to("/etc/passwd")
    os.mkfifo(directory.root / FOLDER / "cc")

    assert [file.size for file in directory.storage.files(FOLDER)] == [1, None, None]


def test_a_folder_that_may_not_be_read_is_raised_behind_all_others(
    directory: DirectoryStorageBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.put(f"{FOLDER}/aa/data", b"1")
    directory.put(f"{FOLDER}/bb/data", b"1")
    directory.put(f"{FOLDER}/cc/data", b"1")
    scan = os.scandir

    def forbidding(folder: str) -> object:
        # The tests may run as root, whom no mode restricts.
        if folder.endswith("/bb"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", forbidding)
    listing = directory.storage.files(FOLDER)
    assert [next(listing).path for _ in range(2)] == [f"{FOLDER}/aa/data", f"{FOLDER}/cc/data"]
    with pytest.raises(Refused, match="bb"):
        next(listing)


def page(*keys: str, onward: str | None = None) -> bytes:
    """Return a page of a listing (S3, ListObjectsV2)."""
    contents = "".join(f"<Contents><Key>{key}</Key><Size>1</Size></Contents>" for key in keys)
    more = f"<NextContinuationToken>{onward}</NextContinuationToken>" if onward else ""
    truncated = "true" if onward else "false"
    body = f"<IsTruncated>{truncated}</IsTruncated><KeyCount>{len(keys)}</KeyCount>{contents}{more}"
    return f"<?xml version='1.0'?><ListBucketResult>{body}</ListBucketResult>".encode()


XML = {"Content-Type": "application/xml"}
BREAKS = {
    "cut in its head": sending(b"HTTP/1.1 200 OK\r\nContent-Type: applic"),
    "cut in its body": misstating_length(page(f"{FOLDER}/b")[:90], 400, XML),
    "a web page": html(),
    "nothing": hanging_up(),
    "an error": replying(500, b"<Error><Code>InternalError</Code></Error>", XML),
    "a refusal": replying(403, b"<Error><Code>AccessDenied</Code></Error>", XML),
    "the page before": replying(200, page(f"{FOLDER}/a", onward="two"), XML),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_failure_between_pages_of_s3_is_not_taken_for_the_end(broken: str) -> None:
    first = replying(200, page(f"{FOLDER}/a", onward="two"), XML)

    def listing(request: Request, connection: Connection) -> None:
        (BREAKS[broken] if "continuation-token" in request.query else first)(request, connection)

    with start_http_server() as server, making_sources() as sources:
        server.on("/*", listing)
        client = s3_client(server.url, "us-east-1", "tests", "not a secret", CONNECT_TIMEOUT, READ_TIMEOUT)
        sources.stack.callback(client.close)
        storage = S3Blobs(Bucket(client, "layers"), "", TEMPLATE)
        files = storage.files(FOLDER)
        assert next(files).path == f"{FOLDER}/a"
        with pytest.raises((Unavailable, Refused, ConnectionCut), match="s3://layers"):
            list(files)


def test_a_missing_bucket_is_a_failure(moto: Moto) -> None:
    with s3_storage_backend(moto, "no-such-bucket") as backend, pytest.raises(Unavailable, match="no such"):
        list(backend.storage.files(FOLDER))


def test_an_unreachable_s3_is_a_failure(s3: S3StorageBackend) -> None:
    s3.proxy.close()
    with pytest.raises(Unavailable):
        list(s3.storage.files(FOLDER))
