"""`show`: the state of a layer, or how much of an image is brewed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TypeVar

from core.command_line import DONE, FAILED, add_json, named, positive_number
from core.digest import Digest
from core.errors import NO_ANSWER, DatabaseDown, DatabaseNotReady
from core.manifests.coverage import Coverage, ImageLayer
from core.manifests.platform import Platform
from core.names import parse_digest_or_image
from core.output import print_error, print_result
from core.registry.image_contents import read_image_contents
from jobs.service import Service, with_service
from sql.layers import find_coverage, find_layer
from sql.transaction import reading

_POLL_SECONDS = 2.0
_WAIT_SECONDS = 600.0

_TIMES = ("added", "locked", "brewed", "next_try", "claimed")

Result = TypeVar("Result")


def add_options(show: argparse.ArgumentParser) -> None:
    """Add the options of `show`."""
    show.set_defaults(func=with_service(_show), check=_check)
    show.add_argument(
        "what", type=named(parse_digest_or_image), metavar="DIGEST|SCOPE:TAG",
        help="sha256:... for a layer, scope:tag or scope@sha256:... for an image or an index",
    )  # fmt: skip
    add_json(show)
    show.add_argument(
        "--platform", dest="platforms", type=named(Platform.parse), action="append", default=[],
        metavar="OS/ARCH[/VARIANT]",
        help="of SCOPE:TAG, only the images for this platform; may be repeated (default: "
        "jobs.scan-tags.platforms, or else all)",
    )  # fmt: skip
    show.add_argument(
        "--wait", action="store_true",
        help="wait until everything is brewed, or fail when all missing layers were set aside",
    )  # fmt: skip
    show.add_argument(
        "--timeout", type=positive_number, metavar="SECONDS",
        help=f"with --wait: fail after this time (default {_WAIT_SECONDS:g})",
    )  # fmt: skip


def _check(arguments: argparse.Namespace) -> str | None:
    if arguments.platforms and isinstance(arguments.what, Digest):
        return "--platform needs SCOPE:TAG"
    if arguments.timeout and not arguments.wait:
        return "--timeout needs --wait"
    return None


def _show(service: Service, arguments: argparse.Namespace) -> int:
    deadline = time.monotonic() + (arguments.timeout or _WAIT_SECONDS) if arguments.wait else 0.0
    if isinstance(arguments.what, Digest):
        return _show_layer(service, arguments, deadline)
    return _show_image(service, arguments, deadline)


def _show_layer(service: Service, arguments: argparse.Namespace, deadline: float) -> int:
    def read() -> tuple[bool, dict[str, object] | None]:
        record = layer_record(service, arguments.what)
        return record is not None and record["state"] in ("brewed", "set aside"), record

    record = _wait_for(read, service, deadline)
    if record is None:
        print_error(f"{arguments.what} is unknown: neither brewed nor queued")
        return FAILED
    print_result(record if arguments.json else layer_lines(record))
    return FAILED if arguments.wait and record["state"] != "brewed" else DONE


def _show_image(service: Service, arguments: argparse.Namespace, deadline: float) -> int:
    scope, reference = arguments.what
    usual = tuple(Platform.parse(name) for name in service.config.jobs.scan_tags.platforms)

    def read() -> tuple[bool, Coverage]:
        contents = read_image_contents(
            service.registry, scope, reference, requested=tuple(arguments.platforms), usual=usual
        )
        with reading(service.reader) as connection:
            now = service.now(connection)
            coverage = find_coverage(connection, service.tables, contents, now=now)
        return coverage.whole or coverage.all_lacking_set_aside, coverage

    coverage = _wait_for(read, service, deadline)
    print_result(coverage_json(coverage) if arguments.json else coverage_lines(coverage))
    platform_missing = bool(arguments.platforms and coverage.contents.absent)
    return FAILED if platform_missing or (arguments.wait and not coverage.whole) else DONE


def _wait_for(read: Callable[[], tuple[bool, Result]], service: Service, deadline: float) -> Result:
    """Call `read` until it returns True with its result, or `deadline` (monotonic) has passed."""
    while True:
        left = deadline - time.monotonic()
        try:
            over, result = read()
            if over or service.stop.is_set() or left <= 0:
                return result
        except (*NO_ANSWER, DatabaseDown) as error:
            # These are temporary, except for problems that an operator must fix.
            if isinstance(error, DatabaseNotReady) or service.stop.is_set() or left <= 0:
                raise
        service.stop.wait(min(_POLL_SECONDS, max(left, 0.0)))


def layer_record(service: Service, digest: Digest) -> dict[str, object] | None:
    """Return everything that the database has on a layer, None if it is unknown. Raises DatabaseDown."""
    with reading(service.reader) as connection:
        record = find_layer(connection, service.tables, digest, now=service.now(connection))
    return asdict(record) | {"digest": str(record.digest)} if record else None


def layer_lines(record: dict[str, object]) -> Iterator[str]:
    """Yield a line for each field that has a value, and finally one with the state."""
    for name, value in record.items():
        if value is None or value == () or name == "more_scopes":
            continue
        if name in _TIMES and isinstance(value, int):
            value = f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S} UTC"
        if isinstance(value, tuple):
            value = " ".join(value) + (" and more" if record["more_scopes"] else "")
        yield f"{name:<13} {value}"
    yield f"{record['digest']} is {record['state']}"


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
        "missing_manifests": [str(digest) for digest in contents.missing],
        "platforms": [str(platform) for platform in contents.platforms],
        "platforms_left_out": [str(platform) for platform in contents.left_out],
        "platforms_absent": [str(platform) for platform in contents.absent],
        "layers": [asdict(layer) | {"digest": str(layer.digest)} for layer in coverage.layers],
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
