"""`queue`: show waiting, locked and failed layers; retry or drop failures."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass

from core.command_line import DONE, FAILED, add_actions, add_command, add_json, named
from core.digest import Digest
from core.output import print_error, print_result
from jobs.queue_lost import queue_lost
from jobs.queue_status import status_json, status_lines
from jobs.service import Service, with_service
from jobs.summary import exit_status
from sql.layers import find_layer
from sql.requeue import find_brewed_layer, requeue_brewed
from sql.set_aside import drop_layers, drop_manifests, retry_failed_layers, retry_failed_manifests
from sql.status import count_manifests_of, queue_status
from sql.tables import Priority
from sql.transaction import reading, transaction


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
        "Queue layers and manifests again that were set aside, or layers whose torrent is lost.",
        "queue retry --reason 'timed out'",
        with_service(_retry),
    )
    _add_selection(retry, "this layer or manifest; a brewed layer is brewed again", lost=True)
    drop_command = add_command(
        queue,
        "drop",
        "Remove layers and manifests that were set aside, or a waiting one. They may be queued again.",
        "queue drop --reason 'not found'",
        with_service(_drop),
    )
    _add_selection(drop_command, "this layer or manifest")


def _add_selection(command: argparse.ArgumentParser, digest_help: str, *, lost: bool = False) -> None:
    add_json(command)
    selection = command.add_mutually_exclusive_group(required=True)
    selection.add_argument("--all", action="store_true", help="all layers and manifests that were set aside")
    selection.add_argument(
        "--reason",
        type=_words,
        metavar="TEXT",
        help="those set aside for a reason that contains TEXT",
    )
    if lost:
        selection.add_argument(
            "--lost", action="store_true", help="all brewed layers whose metainfo is missing from the store"
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
            known = count_manifests_of(connection, service.tables, digest)
            return f"the manifest {digest} waits already" if known else f"{digest} is unknown"
    if layer.state == "being brewed":
        return f"{digest} is being brewed by {layer.brewer if layer.claimed else 'an unknown brewer'}"
    if layer.state == "brewed":
        return f"{digest} is brewed: nothing to drop"
    return f"{digest} waits already"
