"""Coverage of an image: which platforms are examined, and what counts as complete."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.manifests.coverage import Coverage
from core.manifests.platform import Platform
from core.registry.image_contents import read_image_contents
from jobs.show import coverage_json, coverage_lines
from sql.engine import create_engine_for
from sql.layers import find_coverage
from sql.transaction import reading
from tests.integration.sql.database import NOW, Database
from tests.scanning import client
from tests.servers.layers import layer_bytes
from tests.servers.push import PushedImage, push_image, push_index
from tests.servers.registry import Registry

AMD64, ARM64, ARM_V7, WINDOWS = (
    Platform.parse(name) for name in ("linux/amd64", "linux/arm64", "linux/arm/v7", "windows/amd64")
)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    engine = create_engine_for(file=tmp_path / "queue.sqlite")
    yield Database.created(engine)
    engine.dispose()


@pytest.fixture
def images(database: Database, registry: Registry, scope: str) -> dict[Platform, PushedImage]:
    """The images of the index `multi`, of one layer each; only that for linux/amd64 is brewed."""
    images = {
        platform: push_image(
            registry, scope, None, [layer_bytes(1000, 1200 + number)], platform=str(platform)
        )
        for number, platform in enumerate((AMD64, ARM64, ARM_V7))
    }
    push_index(registry, scope, "multi", [image.descriptor for image in images.values()])
    database.enqueue(images[AMD64].layers[0].digest)
    database.complete(database.claim_one())
    return images


def read(
    database: Database,
    registry: Registry,
    image: tuple[str, str],
    requested: tuple[Platform, ...] = (),
    usual: tuple[Platform, ...] = (),
) -> Coverage:
    contents = read_image_contents(client(registry.netloc), *image, requested=requested, usual=usual)
    with reading(database.engine) as connection:
        return find_coverage(connection, database.tables, contents, now=NOW)


def test_without_platforms_all_are_examined(
    database: Database, registry: Registry, scope: str, images: dict[Platform, PushedImage]
) -> None:
    coverage = read(database, registry, (scope, "multi"))

    assert coverage.contents.platforms == (AMD64, ARM64, ARM_V7)
    assert (coverage.contents.left_out, coverage.contents.absent) == ((), ())
    assert (len(coverage.brewed), len(coverage.layers), coverage.whole) == (1, 3, False)
    assert "platforms linux/amd64 linux/arm64 linux/arm/v7, left out none" in coverage_lines(coverage)


@pytest.mark.parametrize("named", ["requested", "usual"])
def test_only_named_platforms_are_examined_and_missing_ones_reported(
    database: Database, registry: Registry, scope: str, images: dict[Platform, PushedImage], named: str
) -> None:
    coverage = read(database, registry, (scope, "multi"), **{named: (AMD64,)})

    assert [str(layer.digest) for layer in coverage.layers] == [images[AMD64].layers[0].digest]
    assert coverage.whole
    *_, platforms, last = coverage_lines(coverage)
    assert platforms == "platforms linux/amd64, left out linux/arm64 linux/arm/v7"
    assert last.startswith(f"{scope}:multi: brewed 1 of 1 layers, ")
    shown = json.loads(json.dumps(coverage_json(coverage)))
    assert [layer["digest"] for layer in shown["layers"]] == [images[AMD64].layers[0].digest]
    assert shown["platforms"] == ["linux/amd64"]
    assert shown["platforms_left_out"] == ["linux/arm64", "linux/arm/v7"]
    assert (shown["platforms_absent"], shown["whole"]) == ([], True)


def test_requested_platforms_override_the_configured_ones(
    database: Database, registry: Registry, scope: str, images: dict[Platform, PushedImage]
) -> None:
    coverage = read(database, registry, (scope, "multi"), requested=(ARM64,), usual=(AMD64,))

    assert (coverage.contents.platforms, coverage.contents.left_out) == ((ARM64,), (AMD64, ARM_V7))
    assert not coverage.whole


def test_a_platform_without_a_variant_matches_any(
    database: Database, registry: Registry, scope: str, images: dict[Platform, PushedImage]
) -> None:
    coverage = read(database, registry, (scope, "multi"), requested=(Platform.parse("linux/arm"),))

    assert coverage.contents.platforms == (ARM_V7,)


def test_an_index_without_a_requested_platform_is_incomplete(
    database: Database, registry: Registry, scope: str, images: dict[Platform, PushedImage]
) -> None:
    coverage = read(database, registry, (scope, "multi"), requested=(AMD64, WINDOWS))

    assert coverage.contents.absent == (WINDOWS,)
    assert not coverage.whole
    assert "no image for windows/amd64" in coverage_lines(coverage)
    assert coverage_json(coverage)["platforms_absent"] == ["windows/amd64"]


def test_at_least_one_of_the_configured_platforms_is_required(
    database: Database, registry: Registry, scope: str, images: dict[Platform, PushedImage]
) -> None:
    some = read(database, registry, (scope, "multi"), usual=(AMD64, WINDOWS))
    none = read(database, registry, (scope, "multi"), usual=(WINDOWS,))

    assert (some.contents.absent, some.whole) == ((), True)
    assert (none.contents.absent, none.whole, none.layers) == ((WINDOWS,), False, ())
    assert list(coverage_lines(none))[-1].endswith("0 of 0 bytes (0.0 %)")


def test_an_image_of_an_index_within_an_index_is_left_out_too(
    database: Database, registry: Registry, scope: str, images: dict[Platform, PushedImage]
) -> None:
    inner = push_index(registry, scope, None, [images[AMD64].descriptor, images[ARM64].descriptor])
    push_index(registry, scope, "outer", [inner.descriptor, images[ARM_V7].descriptor])

    coverage = read(database, registry, (scope, "outer"), requested=(AMD64,))

    assert (coverage.contents.platforms, coverage.contents.left_out) == ((AMD64,), (ARM64, ARM_V7))
    assert coverage.whole


def test_the_platform_of_an_image_outside_an_index_is_that_of_its_config(
    database: Database, registry: Registry, scope: str
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(1000, 1210)], platform="linux/arm64")

    other = read(database, registry, (scope, "v1"), requested=(AMD64,))
    same = read(database, registry, (scope, "v1"), requested=(ARM64,))

    assert (other.contents.platforms, other.contents.absent, other.whole) == ((ARM64,), (AMD64,), False)
    assert "no image for linux/amd64" in coverage_lines(other)
    assert (same.contents.platforms, same.contents.absent, len(same.layers)) == ((ARM64,), (), 1)


def test_without_a_requested_platform_an_image_outside_an_index_is_examined(
    database: Database, registry: Registry, scope: str
) -> None:
    push_image(registry, scope, "v1", [layer_bytes(1000, 1210)], platform="linux/arm64")

    coverage = read(database, registry, (scope, "v1"), usual=(AMD64,))

    assert len(coverage.layers) == 1
    assert (coverage.contents.platforms, coverage.contents.left_out, coverage.contents.absent) == ((), (), ())
    assert not any("platforms" in line for line in coverage_lines(coverage))


def test_waiting_is_pointless_if_everything_missing_was_set_aside(
    database: Database, registry: Registry, scope: str
) -> None:
    image = push_image(registry, scope, "v1", [layer_bytes(1000, 1211), layer_bytes(1000, 1212)])
    first, second = (layer.digest for layer in image.layers)
    database.enqueue(first)
    database.set_aside(database.claim_one())

    assert not read(database, registry, (scope, "v1")).all_lacking_set_aside
    database.enqueue(second)
    assert not read(database, registry, (scope, "v1")).all_lacking_set_aside
    database.complete(database.claim_one())
    assert read(database, registry, (scope, "v1")).all_lacking_set_aside
