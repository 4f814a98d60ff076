"""From a repository in a real registry to a torrent for third-party clients."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

import libtorrent
import pytest

from tests.installation import Installation
from tests.servers.aria2 import download
from tests.servers.layers import layer_bytes
from tests.servers.push import push_blob, push_image, push_index
from tests.servers.registry import Registry

ORIGINAL_DDL = """
CREATE TABLE IF NOT EXISTS rbtorrent_mapping (
    digest varchar(128) PRIMARY KEY,  --layer digest
    rbtorrent_id varchar(64),          --layer rbtorrent, main point of service
    added BIGINT,                     --timestamp when record was added
    brew_lock BIGINT,                 --timestamp to lock layer for brewing
    brewed BIGINT);                   --timestamp when layer brewed
"""


@pytest.fixture
def installation(tmp_path: Path, registry: Registry) -> Installation:
    return Installation(tmp_path, registry)


def sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return "sha256:" + hashlib.file_digest(content, "sha256").hexdigest()


def test_from_a_repository_to_a_download(installation: Installation, registry: Registry, scope: str) -> None:
    layers = [layer_bytes(300_000, 1), layer_bytes(5_000_000, 2), layer_bytes(3, 3)]
    image = push_image(registry, scope, "v1", layers)

    assert installation.last_line("backfill", "repository", scope).startswith("queued 3 layers")
    assert installation.last_line("run", "brew") == "brewed 3, failed 0, waiting 0"

    coverage = installation.json("show", f"{scope}:v1")
    assert coverage["whole"] is True
    assert coverage["bytes_brewed"] == 5_300_003
    ids = {layer["digest"]: layer["rbtorrent_id"] for layer in coverage["layers"]}
    for layer in image.layers:
        torrent = installation.torrent(layer.digest)
        info = libtorrent.torrent_info(str(torrent))
        assert ids[layer.digest] == f"rbtorrent:{info.info_hashes().v1}"
        assert info.total_size() == layer.size
        web_seed = f"{registry.url}/v2/{scope}/blobs/{layer.digest}"
        folder = installation.folder / layer.digest[7:15]
        assert sha256_of(download(torrent, folder, web_seeds=[web_seed])) == layer.digest


@pytest.mark.parametrize("media", ["docker", "oci"])
def test_lists_and_indexes_are_brewed_with_all_their_images(
    installation: Installation, registry: Registry, scope: str, media: str
) -> None:
    amd64 = push_image(registry, scope, None, [layer_bytes(1000, 1)], media=media, platform="linux/amd64")
    arm64 = push_image(registry, scope, None, [layer_bytes(1000, 2)], media=media, platform="linux/arm64")
    push_index(registry, scope, "multi", [amd64.descriptor, arm64.descriptor], media=media)

    installation.run("backfill", "repository", scope)

    assert installation.last_line("run", "brew") == "brewed 2, failed 0, waiting 0"
    assert installation.json("show", f"{scope}:multi")["layers_brewed"] == 2


def test_a_dry_run_counts_and_queues_nothing(
    installation: Installation, registry: Registry, scope: str
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(1000, 1), layer_bytes(2000, 2)])
    push_image(registry, scope, "v2", [layer_bytes(1000, 1), layer_bytes(4000, 3)])

    said = installation.last_line("backfill", "repository", "--dry-run", scope)

    assert said.startswith("would queue 3 layers (0.0 MB), already known 0, tags 2")
    assert installation.json("queue", "status")["waiting_count"] == 0


def test_a_backfill_run_again_finds_nothing_new(
    installation: Installation, registry: Registry, scope: str
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(1000, 1)])
    installation.run("backfill", "repository", scope)

    assert installation.last_line("backfill", "repository", scope) == (
        "queued 0 layers (0.0 MB), tags 1 (unchanged 1), repositories 1, failed 0"
    )


def test_a_missing_repository_is_reported_and_others_are_queued(
    installation: Installation, registry: Registry, scope: str
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(1000, 1)])

    ended = installation.run("backfill", "repository", "no/such/repository", scope, check=False)

    assert ended.returncode == 1
    assert "no/such/repository" in ended.stderr
    assert ended.stdout.startswith("queued 1 layers")


def test_a_database_and_rows_created_by_hand_are_brewed(
    installation: Installation, registry: Registry, scope: str
) -> None:
    content = layer_bytes(1000, 7)
    # The layer must exist in some repository, which the row does not name.
    layer = push_blob(registry, scope, content)
    push_image(registry, scope, "v1", [content])
    installation.state.mkdir()
    with sqlite3.connect(installation.state / "docker_torrents.sqlite") as database:
        database.executescript(ORIGINAL_DDL)
        database.execute("INSERT INTO rbtorrent_mapping (digest, added) VALUES (?, 1)", (layer.digest,))
    database.close()

    assert installation.last_line("run", "brew") == "brewed 1, failed 0, waiting 0"
    assert installation.json("show", layer.digest)["state"] == "brewed"


def test_a_blob_missing_from_the_registry_is_retried_then_set_aside_with_its_reason(
    tmp_path: Path, registry: Registry, scope: str
) -> None:
    installation = Installation(tmp_path, registry, brewer={"max_attempts": 3})
    image = push_image(registry, scope, "v1", [layer_bytes(1000, 11), layer_bytes(1000, 12)])
    installation.run("backfill", "repository", scope)
    registry.blob_file(image.layers[0].digest).unlink()

    ended = installation.run("run", "brew", check=False)

    assert (ended.returncode, ended.stdout) == (1, "brewed 1, failed 1, waiting 1\n")
    layer = installation.json("show", image.layers[0].digest)
    assert layer["state"] == "delayed"
    assert "not found" in layer["reason"]

    again = Installation(tmp_path, registry, brewer={"max_attempts": 1})
    assert again.last_line("queue", "retry", "--reason", "not found") == "queued again 1, manifests 0"
    assert again.run("run", "brew", check=False).stdout == "brewed 0, failed 1, waiting 0\n"
    assert again.json("show", image.layers[0].digest)["state"] == "set aside"


def test_a_damaged_blob_gets_no_id(installation: Installation, registry: Registry, scope: str) -> None:
    image = push_image(registry, scope, "v1", [layer_bytes(100_000, 21)])
    installation.run("backfill", "repository", scope)
    registry.blob_file(image.layers[0].digest).write_bytes(layer_bytes(100_000, 22))

    ended = installation.run("run", "brew", check=False)

    assert ended.stdout == "brewed 0, failed 1, waiting 0\n"
    layer = installation.json("show", image.layers[0].digest)
    assert (layer["state"], layer["rbtorrent_id"]) == ("set aside", None)


@pytest.mark.parametrize("change", [-1, 1])
def test_a_blob_shorter_or_longer_than_its_descriptor_gets_no_id(
    installation: Installation, registry: Registry, scope: str, change: int
) -> None:
    size = 200_000
    image = push_image(registry, scope, "v1", [layer_bytes(size, 31 + change)])
    installation.run("backfill", "repository", scope)
    blob = registry.blob_file(image.layers[0].digest)
    blob.write_bytes(blob.read_bytes()[:-1] if change < 0 else blob.read_bytes() + b"x")

    installation.run("run", "brew", check=False)

    layer = installation.json("show", image.layers[0].digest)
    assert (layer["state"], layer["rbtorrent_id"]) == ("delayed", None)
    assert str(size) in layer["reason"]
