"""`queue`: show what waits, what is locked and what failed; retry or drop it."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from core.command_line import DONE, FAILED, Commands, add_command, add_group, add_json, named
from core.digest import Digest
from core.output import print_error, print_result
from jobs.queue_lost import queue_lost
from jobs.queue_status import status_json, status_lines
from jobs.service import Service, with_service
from jobs.set_aside import drop, explain_nothing, requeue
from jobs.summary import exit_status
from sql.status import queue_status
from sql.transaction import reading


def add_commands(commands: Commands) -> None:
    """Add `queue`."""
    queue = add_group(commands, "queue", "Look at the queue, retry or drop what failed.", "queue status")
    add_json(
        add_command(
            queue, "status", "Show what waits, what is locked, what failed and why.", "queue status --json",
            with_service(_status),
        )
    )  # fmt: skip
    retry = add_command(
        queue,
        "retry",
        "Queue layers and manifests again that were set aside, or layers whose torrent is lost.",
        "queue retry --reason 'status 404'",
        with_service(_retry),
    )
    _add_selection(retry, "this layer or manifest; a brewed layer is brewed again", lost=True)
    drop_command = add_command(
        queue,
        "drop",
        "Remove layers and manifests that were set aside, or one that waits. They may be queued again.",
        "queue drop --reason 'status 404'",
        with_service(_drop),
    )
    _add_selection(drop_command, "this layer or manifest")


def _add_selection(command: argparse.ArgumentParser, digest_help: str, *, lost: bool = False) -> None:
    add_json(command)
    selection = command.add_mutually_exclusive_group(required=True)
    selection.add_argument("--all", action="store_true", help="everything that was set aside")
    selection.add_argument(
        "--reason", type=_words, metavar="TEXT", help="what was set aside for a reason that contains TEXT"
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
    now = service.now()
    with reading(service.engine) as connection:
        status = queue_status(connection, service.tables, now=now)
    print_result(status_json(status) if arguments.json else status_lines(status, now=now))
    return DONE


def _retry(service: Service, arguments: argparse.Namespace) -> int:
    if arguments.lost:
        lost = queue_lost(service)
        print_result(asdict(lost) if arguments.json else [str(lost)])
        return exit_status(lost)
    digest = arguments.digest
    requeued = requeue(
        service.database, service.tables, reason=arguments.reason, digest=digest, now=service.now()
    )
    if requeued.kept:
        print_error(f"{digest} keeps the id that the older service gave it")
    nothing = digest is not None and not (requeued.queued or requeued.manifests)
    if nothing and not requeued.kept:
        print_error(explain_nothing(service.engine, service.tables, digest, now=service.now()))
    print_result(asdict(requeued) if arguments.json else [str(requeued)])
    return FAILED if nothing else DONE


def _drop(service: Service, arguments: argparse.Namespace) -> int:
    digest = arguments.digest
    dropped = drop(service.database, service.tables, reason=arguments.reason, digest=digest)
    nothing = digest is not None and not (dropped.dropped or dropped.manifests)
    if nothing:
        print_error(explain_nothing(service.engine, service.tables, digest, now=service.now()))
    print_result(asdict(dropped) if arguments.json else [str(dropped)])
    return FAILED if nothing else DONE
