"""Storage trees of operators: moved, linked, half-written, unmounted."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from core.blobs.directory import DirectoryBlobs
from core.digest import Digest
from core.errors import NotFound, Refused, Unavailable
from core.layer import Layer

TEMPLATE = "/docker/registry/v2/blobs/sha256/{short_digest}/{full_digest}/data"
CONTENT = b"a layer's bytes" * 1000
LAYER = Layer(Digest(hashlib.sha256(CONTENT).hexdigest()))
OTHER = Layer(Digest("ab" * 32))
NOBODY = 65534


def source_at(root: Path) -> DirectoryBlobs:
    return DirectoryBlobs(root, TEMPLATE)


def blob_file(root: Path, layer: Layer = LAYER) -> Path:
    return root / f"docker/registry/v2/blobs/sha256/{layer.digest.short}/{layer.digest.hex}/data"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A storage tree that holds LAYER."""
    root = tmp_path / "storage"
    blob_file(root).parent.mkdir(parents=True)
    blob_file(root).write_bytes(CONTENT)
    return root


def read(source: DirectoryBlobs, offset: int = 0, length: int | None = None) -> bytes:
    got = bytearray()
    buffer = memoryview(bytearray(997))
    with source.open(LAYER, offset, length) as reader:
        while count := reader.readinto(buffer):
            got += buffer[:count]
    return bytes(got)


@contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Drop root's privileges: permissions do not restrict root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_root_that_is_a_link_is_followed(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)

    assert read(source_at(link)) == CONTENT


def test_a_folder_that_was_moved_to_another_disk_is_followed(root: Path, tmp_path: Path) -> None:
    blobs = root / "docker/registry/v2/blobs"
    blobs.rename(tmp_path / "other disk")
    blobs.symlink_to(tmp_path / "other disk")

    assert read(source_at(root)) == CONTENT


def test_a_blob_that_is_a_link_is_refused(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(CONTENT)
    blob_file(root).unlink()
    blob_file(root).symlink_to(elsewhere)

    with pytest.raises(Refused, match="symbolic link"):
        read(source_at(root))
    with pytest.raises(Refused, match="symbolic link"):
        source_at(root).size(LAYER)


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_a_blob_that_is_not_a_regular_file_is_refused_without_blocking(root: Path, kind: str) -> None:
    blob_file(root).unlink()
    if kind == "folder":
        blob_file(root).mkdir()
    else:
        os.mkfifo(blob_file(root))

    with pytest.raises(Refused, match="regular"):
        read(source_at(root))


def test_an_unreadable_file_is_refused(root: Path) -> None:
    # Not below tmp_path, which is closed to the ordinary user as a whole.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        moved = root.rename(Path(folder, "storage"))
        blob_file(moved).chmod(0o000)

        with as_an_ordinary_user(), pytest.raises(Refused, match="permission denied"):
            read(source_at(moved))


def test_an_empty_folder_is_a_missing_layer(root: Path) -> None:
    blob_file(root).unlink()

    with pytest.raises(NotFound):
        source_at(root).size(LAYER)


def test_an_unmounted_storage_sets_no_layer_aside(tmp_path: Path) -> None:
    (tmp_path / "mount point").mkdir()

    for source in (source_at(tmp_path / "mount point"), source_at(tmp_path / "no such folder")):
        with pytest.raises(Unavailable):
            source.size(LAYER)
        with pytest.raises(Unavailable):
            read(source)
        with pytest.raises(Unavailable):
            source.check()


def test_the_template_may_include_the_root(root: Path) -> None:
    source = DirectoryBlobs(Path("/"), f"{root}{TEMPLATE}")

    assert source.size(LAYER) == len(CONTENT)
    assert str(root) in source.check()


def test_a_file_removed_while_it_is_read_is_read_to_its_end(root: Path) -> None:
    with source_at(root).open(LAYER, 0) as reader:
        buffer = memoryview(bytearray(len(CONTENT)))
        count = reader.readinto(buffer[:100])
        blob_file(root).unlink()
        while more := reader.readinto(buffer[count:] or memoryview(bytearray(1))):
            count += more
        assert buffer[:count] == CONTENT

    with pytest.raises(NotFound):
        source_at(root).size(LAYER)


def test_an_upload_in_progress_is_not_a_layer(root: Path) -> None:
    upload = root / "docker/registry/v2/repositories/app/_uploads/3f1c/data"
    upload.parent.mkdir(parents=True)
    upload.write_bytes(b"half of it")

    with pytest.raises(NotFound):
        source_at(root).size(Layer(OTHER.digest, ("app",)))


def test_a_failing_disk_is_an_unavailable_source() -> None:
    # A file whose first byte cannot be read: that address is never mapped (proc(5)).
    source = DirectoryBlobs(Path("/"), "/proc/self/mem")

    with pytest.raises(Unavailable, match="Input/output error"):
        read(source)


def test_a_closed_reader_gives_nothing(root: Path) -> None:
    reader = source_at(root).open(LAYER, 0)
    reader.close()
    reader.close()

    with pytest.raises(Unavailable, match="closed"):
        reader.readinto(memoryview(bytearray(10)))
