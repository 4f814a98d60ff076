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
from core.errors import NO_ANSWER, DatabaseDown, DatabaseNotReady, InvalidName
from core.manifests.coverage import Coverage
from core.manifests.platform import Platform
from core.names import parse_digest_or_image
from core.output import print_error, print_result
from jobs.image_coverage import coverage_json, coverage_lines, show_image
from jobs.service import Service, with_service
from sql.layers import find_layer
from sql.transaction import reading

_POLL_SECONDS = 2.0
_WAIT_SECONDS = 600.0

_TIMES = ("added", "locked", "brewed", "next_try", "claimed")

Result = TypeVar("Result")


def add_options(show: argparse.ArgumentParser) -> None:
    """Add the options of `show`."""
    show.set_defaults(func=with_service(_show), check=_check)
    show.add_argument(
        "what", type=_digest_or_image, metavar="DIGEST|SCOPE:TAG",
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


def _digest_or_image(text: str) -> Digest | tuple[str, str | Digest]:
    try:
        return parse_digest_or_image(text)
    except InvalidName as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _show(service: Service, arguments: argparse.Namespace) -> int:
    deadline = time.monotonic() + (arguments.timeout or _WAIT_SECONDS) if arguments.wait else 0.0
    if isinstance(arguments.what, Digest):
        return _show_layer(service, arguments, deadline)
    return _show_image(service, arguments, deadline)


def _show_layer(service: Service, arguments: argparse.Namespace, deadline: float) -> int:
    def look() -> tuple[bool, dict[str, object] | None]:
        record = layer_record(service, arguments.what)
        return record is not None and record["state"] in ("brewed", "set aside"), record

    record = _wait_for(look, service, deadline)
    if record is None:
        print_error(f"{arguments.what} is unknown: neither brewed nor queued")
        return FAILED
    print_result(record if arguments.json else layer_lines(record))
    return FAILED if arguments.wait and record["state"] != "brewed" else DONE


def _show_image(service: Service, arguments: argparse.Namespace, deadline: float) -> int:
    scope, reference = arguments.what
    usual = tuple(Platform.parse(name) for name in service.config.jobs.scan_tags.platforms)

    def look() -> tuple[bool, Coverage]:
        coverage = show_image(
            service.reader,
            service.tables,
            service.registry,
            scope,
            reference,
            requested=tuple(arguments.platforms),
            usual=usual,
            clock=service.clock,
        )
        return coverage.whole or coverage.hopeless, coverage

    coverage = _wait_for(look, service, deadline)
    print_result(coverage_json(coverage) if arguments.json else coverage_lines(coverage))
    platform_missing = bool(arguments.platforms and coverage.contents.absent)
    return FAILED if platform_missing or (arguments.wait and not coverage.whole) else DONE


def _wait_for(look: Callable[[], tuple[bool, Result]], service: Service, deadline: float) -> Result:
    """Call `look` until it returns True with its result, or `deadline` (monotonic) has passed."""
    while True:
        left = deadline - time.monotonic()
        try:
            over, result = look()
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
