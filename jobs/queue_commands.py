"""`queue`: show waiting, locked and failed layers; retry or drop failures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from core.command_line import DONE, FAILED, add_actions, add_command, add_json, named
from core.digest import Digest
from core.output import print_error, print_result
from core.units import span
from jobs.queue_lost import queue_lost
from jobs.service import Service, with_service
from jobs.summary import exit_status
from sql.layers import find_layer
from sql.manifests import knows_manifest
from sql.requeue import (
    drop_layers,
    drop_manifests,
    find_brewed_layer,
    requeue_brewed,
    retry_failed_layers,
    retry_failed_manifests,
)
from sql.status import FailedLayer, QueueStatus, queue_status
from sql.tables import Priority
from sql.transaction import reading, transaction

_SHOWN_LOCKS = 20
_SHOWN_FAILED = 3
_SLOW = 0.1
"""Below this number of layers a second only the number of the last hour is shown."""


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the actions of `queue`."""
    queue = add_actions(command)
    add_json(
        add_command(
            queue, "status", "Show waiting and locked layers, and failures.", "queue status --json",
            with_service(_status),
        )
    )  # fmt: skip
    retry = add_command(
        queue,
        "retry",
        "Try failed layers and manifests again at once, or queue layers whose torrent is lost.",
        "queue retry --reason 'timed out'",
        with_service(_retry),
    )
    _add_selection(
        retry,
        "that were set aside or wait for a retry",
        "this layer or manifest; a brewed layer is brewed again",
        lost=True,
    )
    drop_command = add_command(
        queue,
        "drop",
        "Remove layers and manifests that were set aside, or a waiting one. They may be queued again.",
        "queue drop --reason 'not found'",
        with_service(_drop),
    )
    _add_selection(drop_command, "that were set aside", "this layer or manifest, also one that waits")


def _add_selection(
    command: argparse.ArgumentParser, failed: str, digest_help: str, *, lost: bool = False
) -> None:
    add_json(command)
    selection = command.add_mutually_exclusive_group(required=True)
    selection.add_argument("--all", action="store_true", help=f"all layers and manifests {failed}")
    selection.add_argument(
        "--reason",
        type=_words,
        metavar="TEXT",
        help=f"those {failed}, for a reason that contains TEXT",
    )
    if lost:
        selection.add_argument(
            "--lost",
            action="store_true",
            help="all layers brewed here whose torrent is missing from the store",
        )
    selection.add_argument("--digest", type=named(Digest.parse), metavar="DIGEST", help=digest_help)


def _words(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected words of the reason; use --all to select everything")
    return text


def _status(service: Service, arguments: argparse.Namespace) -> int:
    with reading(service.reader) as connection:
        now = service.now(connection)
        status = queue_status(connection, service.tables, now=now)
    print_result(status_json(status) if arguments.json else status_lines(status, now=now))
    return DONE


def status_lines(status: QueueStatus, *, now: int) -> Iterator[str]:
    """Yield lines on waiting layers, locks and their brewers, failures and their reasons, and the pace."""
    oldest = f", oldest {span(now - status.oldest_waiting)} ago" if status.oldest_waiting else ""
    yield f"waiting    {status.waiting_count} ({status.delayed} delayed after a failure{oldest})"
    for priority, layers in status.waiting.items():
        if layers:
            yield f"  {layers:>9} {priority.name.lower()}"
    for kind, delayed in status.delayed_by_reason.items():
        first, last = span(delayed.first_try - now), span(delayed.last_try - now)
        yield f"  {delayed.layers:>9} retried in {first}{'' if first == last else f' to {last}'}: {kind}"
    yield f"locked     {status.locked_count}"
    for lock in status.locked[:_SHOWN_LOCKS]:
        held = f"{span(now - lock.since)}, renewed {span(now - lock.renewed)} ago"
        yield f"  {lock.digest} by {lock.brewer or 'an unknown brewer'} for {held}"
    if status.locked_count > _SHOWN_LOCKS:
        yield f"  ... and {status.locked_count - _SHOWN_LOCKS} more"
    yield f"set aside  {status.set_aside_count}"
    examples: dict[str, list[FailedLayer]] = {}
    for layer in status.set_aside_layers:
        examples.setdefault(layer.kind, []).append(layer)
    for reason, layers in status.set_aside.items():
        yield f"  {layers:>9} {reason}"
        shown = examples.get(reason, [])[:_SHOWN_FAILED]
        yield from (f"            {_failed(layer)}" for layer in shown)
        if layers > len(shown):
            yield f"            ... and {layers - len(shown)} more (--json lists them)"
    manifests = status.manifests
    yield f"manifests  {manifests.waiting} to resolve, {manifests.set_aside_count} set aside"
    for reason, number in manifests.set_aside.items():
        yield f"  {number:>9} {reason}"
    pace = f" ({status.per_second:.1f} a second)" if status.per_second >= _SLOW else ""
    yield f"brewed     {status.brewed_last_hour} in the last hour{pace}"
    if status.waiting_count > status.delayed:
        yield f"empty in   {'?' if status.empty_in is None else span(status.empty_in)}"
    yield f"waiting {status.waiting_count}, locked {status.locked_count}, set aside {status.set_aside_count}"


def _failed(layer: FailedLayer) -> str:
    size = "?" if layer.size is None else layer.size
    return f"{layer.digest}  {size:>12}  {' '.join(layer.scopes) or 'repository unknown'}"


def status_json(status: QueueStatus) -> dict[str, object]:
    """Return the same as JSON values; times are Unix seconds."""
    values = asdict(status)
    values["waiting"] = {priority.name.lower(): layers for priority, layers in status.waiting.items()}
    values["waiting_count"] = status.waiting_count
    values["set_aside_count"] = status.set_aside_count
    values["manifests"] = {**asdict(status.manifests), "set_aside_count": status.manifests.set_aside_count}
    return values


def _retry(service: Service, arguments: argparse.Namespace) -> int:
    if arguments.lost:
        lost = queue_lost(service)
        print_result(asdict(lost) if arguments.json else [str(lost)])
        return exit_status(lost)
    digest = arguments.digest
    requeued = requeue(service, reason=arguments.reason, digest=digest)
    if requeued.kept:
        print_error(f"{digest} keeps its id from the older service")
    nothing = not (arguments.all or requeued.queued or requeued.manifests)
    if nothing and not requeued.kept:
        print_error(_explain(service, arguments))
    print_result(asdict(requeued) if arguments.json else [str(requeued)])
    return FAILED if nothing else DONE


def _drop(service: Service, arguments: argparse.Namespace) -> int:
    digest = arguments.digest
    dropped = drop(service, reason=arguments.reason, digest=digest)
    nothing = not (arguments.all or dropped.dropped or dropped.manifests)
    if nothing:
        print_error(_explain(service, arguments))
    print_result(asdict(dropped) if arguments.json else [str(dropped)])
    return FAILED if nothing else DONE


def _explain(service: Service, arguments: argparse.Namespace) -> str:
    """Return why nothing was selected."""
    if arguments.digest is None:
        return f"no failure has a reason with {arguments.reason!r}: queue status shows the reasons"
    return explain_nothing(service, arguments.digest)


@dataclass(frozen=True)
class Requeued:
    """How many layers and manifests are retried. `kept`: the layer keeps the id of an older service."""

    queued: int
    manifests: int
    kept: bool = False

    def __str__(self) -> str:
        return f"queued again {self.queued}, manifests {self.manifests}"


@dataclass(frozen=True)
class Dropped:
    """How many layers and manifests were removed."""

    dropped: int
    manifests: int

    def __str__(self) -> str:
        return f"dropped {self.dropped}, manifests {self.manifests}"


def requeue(service: Service, *, reason: str | None = None, digest: Digest | None = None) -> Requeued:
    """Queue layers and manifests again that were set aside: everything, failures for `reason`, or the layer
    or manifest `digest`.

    A manifest is retried in each of its repositories, and a layer `digest` that is brewed is brewed again.
    Raises DatabaseDown.
    """
    tables = service.tables
    with transaction(service.database) as connection:
        now = service.now(connection)
        queued = retry_failed_layers(connection, tables, reason_like=reason, digest=digest)
        manifests = retry_failed_manifests(connection, tables, reason_like=reason, digest=digest, now=now)
        brewed = find_brewed_layer(connection, tables, digest) if digest is not None else None
        if brewed is not None:
            queued = requeue_brewed(connection, tables, [brewed], priority=Priority.ASKED, now=now)
    return Requeued(queued, manifests, kept=brewed is not None and not brewed.here)


def drop(service: Service, *, reason: str | None = None, digest: Digest | None = None) -> Dropped:
    """Remove layers and manifests that were set aside, selected as in `requeue`, or a waiting layer or
    manifest `digest`.

    Raises DatabaseDown.
    """
    with transaction(service.database) as connection:
        return Dropped(
            drop_layers(connection, service.tables, reason_like=reason, digest=digest),
            drop_manifests(connection, service.tables, reason_like=reason, digest=digest),
        )


def explain_nothing(service: Service, digest: Digest) -> str:
    """Return why the layer or manifest `digest` could not be queued again or dropped."""
    with reading(service.engine) as connection:
        layer = find_layer(connection, service.tables, digest, now=service.now(connection))
        if layer is None:
            known = knows_manifest(connection, service.tables, digest)
            return f"the manifest {digest} waits already" if known else f"{digest} is unknown"
    if layer.state == "being brewed":
        return f"{digest} is being brewed by {layer.brewer if layer.claimed else 'an unknown brewer'}"
    if layer.state == "brewed":
        return f"{digest} is brewed: nothing to drop"
    return f"{digest} waits already"
