"""The meaning of paths in a registry's storage."""

from __future__ import annotations

import pytest

from core.blobs.storage_layout import StorageLayout, blob_path, position_of
from core.digest import Digest

TEMPLATE = "/docker/registry/v2/blobs/sha256/{short_digest}/{full_digest}/data"
A = Digest("ab" * 32)
LAYOUT = StorageLayout(TEMPLATE, 7)
REPOSITORY = "docker/registry/v2/repositories/library/ubuntu"


@pytest.mark.parametrize(
    ("template", "index"),
    [
        (TEMPLATE, 7),
        (TEMPLATE[1:], 6),
        ("/{full_digest}/{short_digest}", 1),
        ("blobs/{short_digest}/{full_digest}", 2),
        ("/a/{short_digest}/x{short_digest}/{full_digest}/b/data.bin", 4),
    ],
)
def test_the_path_of_every_blob_gives_its_digest_back(template: str, index: int) -> None:
    layout = StorageLayout(template, index)
    path = blob_path(template, A)
    assert layout.digest_of(path) == layout.digest_of(path.lstrip("/")) == A


@pytest.mark.parametrize(
    "path",
    [
        f"docker/registry/v2/blobs/sha256/ab/{A.hex}",
        f"docker/registry/v2/blobs/sha256/ab/{A.hex}/data.tmp",
        f"docker/registry/v2/blobs/sha256/ab/{A.hex}/data/data",
        f"docker/registry/v2/blobs/sha256/cd/{A.hex}/data",
        f"docker/registry/v2/blobs/sha512/ab/{A.hex}/data",
        f"docker/registry/v2/blobs/sha256/ab/{A.hex.upper()}/data",
        f"docker/registry/v2/blobs/sha256/ab/{A.hex[:-1]}/data",
        f"elsewhere/docker/registry/v2/blobs/sha256/ab/{A.hex}/data",
        "docker/registry/v2/blobs/sha256/lost+found",
        "",
        "/",
    ],
)
def test_a_file_outside_the_registry_layout_is_not_a_blob(path: str) -> None:
    assert LAYOUT.digest_of(path) is None


def test_links_show_which_repository_holds_a_blob() -> None:
    link = (A, "library/ubuntu")
    assert LAYOUT.link_at(f"{REPOSITORY}/_layers/sha256/{A.hex}/link") == link
    assert LAYOUT.link_at(f"/{REPOSITORY}/_layers/sha256/{A.hex}/link") == link


@pytest.mark.parametrize(
    "path",
    [
        f"{REPOSITORY}/_manifests/revisions/sha256/{A.hex}/link",
        f"{REPOSITORY}/_layers/sha256/{A.hex}/data",
        f"{REPOSITORY}/_layers/sha256/{A.hex[:-2]}/link",
        f"docker/registry/v2/repositories/Not A Name/_layers/sha256/{A.hex}/link",
        f"docker/registry/v2/blobs/_layers/sha256/{A.hex}/link",
    ],
)
def test_other_files_of_a_repository_are_not_links(path: str) -> None:
    assert LAYOUT.link_at(path) is None


def test_all_files_of_an_upload_are_parts_of_one() -> None:
    parts = [
        f"{REPOSITORY}/_uploads/1234-5678/{name}" for name in ("data", "startedat", "hashstates/sha256/0")
    ]
    assert {LAYOUT.upload_at(part) for part in parts} == {"library/ubuntu/_uploads/1234-5678"}
    assert LAYOUT.upload_at(f"{REPOSITORY}/_layers/sha256/{A.hex}/link") is None


def test_a_custom_template_has_no_repositories() -> None:
    assert LAYOUT.repositories == "docker/registry/v2/repositories"
    assert StorageLayout("/layers/{short_digest}/{full_digest}", 3).repositories is None
    assert StorageLayout("/blobs/{short_digest}/{full_digest}", 3).repositories == "repositories"


def test_positions_run_from_the_first_digest_to_the_last() -> None:
    assert position_of(Digest("0" * 64)) == 0
    assert position_of(Digest("8" + "0" * 63)) == 0.5
    assert 0.999 < position_of(Digest("f" * 64)) < 1
