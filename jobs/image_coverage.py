"""How much of an image is brewed, as lines of text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from sqlalchemy import Engine

from core.digest import Digest
from core.manifests.coverage import Coverage, ImageLayer
from core.manifests.platform import Platform
from core.registry.client import RegistryClient
from core.registry.image_contents import read_image_contents
from sql.clock import Clock
from sql.layers import find_coverage
from sql.tables import Tables
from sql.transaction import reading


def show_image(
    engine: Engine,
    tables: Tables,
    registry: RegistryClient,
    scope: str,
    reference: str | Digest,
    *,
    requested: tuple[Platform, ...] = (),
    usual: tuple[Platform, ...] = (),
    clock: Clock,
) -> Coverage:
    """Return the coverage of the image at `scope:reference`, for the platforms that `read_image_contents`
    chooses. Raises RemoteError or ManifestInvalid if a manifest cannot be read, DatabaseDown.
    """
    contents = read_image_contents(registry, scope, reference, requested=requested, usual=usual)
    with reading(engine) as connection:
        return find_coverage(connection, tables, contents, now=clock(connection))


def coverage_json(coverage: Coverage) -> dict[str, object]:
    """Return the coverage as JSON values."""
    contents = coverage.contents
    return {
        "image": contents.image,
        "whole": coverage.whole,
        "layers_total": len(coverage.layers),
        "layers_brewed": len(coverage.brewed),
        "bytes_total": sum(layer.size for layer in coverage.layers),
        "bytes_brewed": coverage.bytes_brewed,
        "missing_manifests": list(contents.missing),
        "platforms": [str(platform) for platform in contents.platforms],
        "platforms_left_out": [str(platform) for platform in contents.left_out],
        "platforms_absent": [str(platform) for platform in contents.absent],
        "layers": [asdict(layer) for layer in coverage.layers],
    }


def coverage_lines(coverage: Coverage) -> Iterator[str]:
    """Yield a line for each layer, the platforms of an index, and the share that is brewed."""
    contents = coverage.contents
    for layer in coverage.layers:
        yield f"{layer.digest}  {layer.size:>12}  {layer.rbtorrent_id or _lacks(layer)}"
    for digest in contents.missing:
        yield f"{digest}  {'?':>12}  the registry does not return this manifest"
    if contents.platforms or contents.left_out:
        yield f"platforms {_names(contents.platforms)}, left out {_names(contents.left_out)}"
    for platform in contents.absent:
        yield f"no image for {platform}"
    brewable = len(coverage.brewed) + len(coverage.lacking)
    other = len(coverage.layers) - brewable
    yield (
        f"{contents.image}: brewed {len(coverage.brewed)} of {brewable} layers, "
        f"{coverage.bytes_brewed} of {coverage.bytes_brewable} bytes ({coverage.percent:.1f} %)"
        f"{f', {other} not brewable' if other else ''}"
    )


def _names(platforms: tuple[Platform, ...]) -> str:
    return " ".join(str(platform) for platform in platforms) or "none"


def _lacks(layer: ImageLayer) -> str:
    return f"{layer.state}: {layer.why}" if layer.why else layer.state
