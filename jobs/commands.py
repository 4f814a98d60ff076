"""What operators type: one-off work and questions, answered on standard output."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TypeVar

from sqlalchemy import Engine

from core.config.config import Config
from core.digest import Digest
from core.errors import RegistryTimeout, RegistryUnavailable
from core.layer_places import LayerPlaces
from core.manifests.platform import Platform
from core.names import matches
from core.output import tell
from core.pace import Pace
from core.registry.client import RegistryClient
from core.stores.store import MetainfoStore
from jobs.backfill_legacy import Takeover, backfill_legacy
from jobs.backfill_storage import StorageScan, backfill_storage
from jobs.queue_lost import LostSearch, queue_lost
from jobs.queue_status import status_json, status_lines
from jobs.repository_scan import Scan
from jobs.set_aside import drop, queue_anew, why_nothing
from jobs.show import Coverage, layer_lines, show_image, show_layer
from jobs.verify_ids import verify_ids
from jobs.walk_repositories import catalog_matching, exact_names, walk_repositories
from sql.errors import DatabaseDown, DatabaseUnfit
from sql.roles import grant_role, list_roles, revoke_role
from sql.status import queue_status
from sql.tables import Priority, Tables
from sql.transaction import reading, transaction

_LOOK_EVERY = 2.0
"""Seconds between looks of `show --wait`."""

_WAIT = 600.0
"""Seconds that `show --wait` waits at most, if nobody says."""

DONE, FAILED, USAGE = 0, 1, 2
"""Exit statuses: all of it, some of it not, usage or configuration."""

_LEFT_UNDONE = ("failed", "interrupted", "given_back", "unanswered")
"""What summaries call that which was not done."""


@dataclass(frozen=True)
class Desk:
    """What commands work with. `stop` is set when the process is told to end; `clock` gives Unix time."""

    engine: Engine
    tables: Tables
    registry: RegistryClient
    places: LayerPlaces
    store: MetainfoStore
    config: Config
    stop: threading.Event
    clock: Callable[[], float] = time.time

    def now(self) -> int:
        return int(self.clock())


def backfill_repository(desk: Desk, arguments: argparse.Namespace) -> int:
    scopes = arguments.scopes
    return told(walk_repositories(_backfill(desk, arguments), scopes, "backfill", named=scopes))


def backfill_catalog(desk: Desk, arguments: argparse.Namespace) -> int:
    scan = _backfill(desk, arguments)
    patterns = arguments.patterns or ["*"]
    names = exact_names(patterns)
    found = 0

    def counted(scopes: Iterable[str]) -> Iterator[str]:
        nonlocal found
        for scope in scopes:
            found += 1
            yield scope

    scopes = counted(chain(names, catalog_matching(scan.registry, patterns)))
    summary = walk_repositories(scan, scopes, "backfill", named=names)
    if not (found or summary.failed or desk.stop.is_set()):
        _complain(f"no repository of the catalog matches {' '.join(patterns)}")
    return told(summary)


def backfill_from_storage(desk: Desk, arguments: argparse.Namespace) -> int:
    storage, source = desk.places.storage(arguments.storage)
    return told(
        backfill_storage(
            StorageScan(
                engine=desk.engine,
                tables=desk.tables,
                storage=storage,
                layout=desk.places.layout,
                source=source,
                clock=desk.clock,
                stop=desk.stop,
                pace=Pace(arguments.rate, sleep=desk.stop.wait),
                readers=desk.config.layers.connections,
                limit=arguments.limit,
                dry_run=arguments.dry_run,
            )
        )
    )


def backfill_from_legacy(desk: Desk, arguments: argparse.Namespace) -> int:
    takeover = Takeover(
        engine=desk.engine,
        tables=desk.tables,
        layout=desk.places.layout,
        clock=desk.clock,
        stop=desk.stop,
        rate=arguments.rate,
        limit=arguments.limit,
        dry_run=arguments.dry_run,
        sample=arguments.verify,
    )
    summary = backfill_legacy(takeover)
    if not arguments.verify:
        return told(summary)
    tell(str(summary))
    verified = told(
        verify_ids(
            desk.places.source(),
            summary.sample,
            private=desk.config.torrents.private,
            connections=desk.config.layers.connections,
            stop=desk.stop,
        )
    )
    return max(status_of(summary), verified)


def _backfill(desk: Desk, arguments: argparse.Namespace) -> Scan:
    return Scan(
        engine=desk.engine,
        tables=desk.tables,
        registry=desk.registry.paced(Pace(arguments.rate, sleep=desk.stop.wait)),
        clock=desk.clock,
        priority=Priority.BACKFILLED,
        stop=desk.stop,
        limit=arguments.limit,
        dry_run=arguments.dry_run,
    )


def role_grant(desk: Desk, arguments: argparse.Namespace) -> int:
    with transaction(desk.engine) as connection:
        new = [
            pattern
            for pattern in arguments.patterns
            if grant_role(connection, desk.tables, pattern, now=desk.now())
        ]
    tell(f"granted {len(new)}, had it already {len(arguments.patterns) - len(new)}")
    return DONE


def role_revoke(desk: Desk, arguments: argparse.Namespace) -> int:
    with transaction(desk.engine) as connection:
        had = [p for p in arguments.patterns if revoke_role(connection, desk.tables, p)]
        left = [role.pattern for role in list_roles(connection, desk.tables)]
    for scope in arguments.patterns:
        if still := [pattern for pattern in left if pattern != scope and matches(scope, pattern)]:
            _complain(f"{scope} still has the role by {', '.join(still)}")
    tell(f"revoked {len(had)}, did not have it {len(arguments.patterns) - len(had)}")
    return DONE


def role_list(desk: Desk, arguments: argparse.Namespace) -> int:
    with reading(desk.engine) as connection:
        roles = list_roles(connection, desk.tables)
    if arguments.json:
        tell(json.dumps([asdict(role) for role in roles], indent=2))
        return DONE
    for role in roles:
        tell(f"{role.pattern}  since {datetime.fromtimestamp(role.granted, UTC):%Y-%m-%d %H:%M} UTC")
    tell(f"roles {len(roles)}")
    return DONE


def queue_show(desk: Desk, arguments: argparse.Namespace) -> int:
    now = desk.now()
    with reading(desk.engine) as connection:
        status = queue_status(connection, desk.tables, now=now)
    say(status_json(status) if arguments.json else status_lines(status, now=now))
    return DONE


def queue_retry(desk: Desk, arguments: argparse.Namespace) -> int:
    if arguments.lost:
        lost = queue_lost(LostSearch(desk.engine, desk.tables, desk.store, desk.clock, desk.stop))
        say(asdict(lost) if arguments.json else [str(lost)])
        return status_of(lost)
    digest = arguments.digest
    anew = queue_anew(desk.engine, desk.tables, reason=arguments.reason, digest=digest, now=desk.now())
    if anew.kept:
        _complain(f"{digest} has its id from the older service, and keeps it")
    nothing = digest is not None and not (anew.queued or anew.manifests)
    if nothing and not anew.kept:
        _complain(why_nothing(desk.engine, desk.tables, digest, now=desk.now()))
    say(asdict(anew) if arguments.json else [str(anew)])
    return FAILED if nothing else DONE


def queue_drop(desk: Desk, arguments: argparse.Namespace) -> int:
    digest = arguments.digest
    dropped = drop(desk.engine, desk.tables, reason=arguments.reason, digest=digest)
    nothing = digest is not None and not (dropped.dropped or dropped.manifests)
    if nothing:
        _complain(why_nothing(desk.engine, desk.tables, digest, now=desk.now()))
    say(asdict(dropped) if arguments.json else [str(dropped)])
    return FAILED if nothing else DONE


def show(desk: Desk, arguments: argparse.Namespace) -> int:
    deadline = time.monotonic() + (arguments.timeout or _WAIT) if arguments.wait else 0.0
    if isinstance(arguments.what, Digest):
        return _show_layer(desk, arguments, deadline)
    return _show_image(desk, arguments, deadline)


def _show_layer(desk: Desk, arguments: argparse.Namespace, deadline: float) -> int:
    def look() -> tuple[bool, dict[str, object] | None]:
        record = show_layer(desk.engine, desk.tables, arguments.what, now=desk.now())
        return record is not None and record["state"] in ("brewed", "set aside"), record

    record = _wait_for(look, desk, deadline)
    if record is None:
        _complain(f"{arguments.what} is not known here")
        return FAILED
    say(record if arguments.json else layer_lines(record))
    return FAILED if arguments.wait and record["state"] != "brewed" else DONE


def _show_image(desk: Desk, arguments: argparse.Namespace, deadline: float) -> int:
    scope, reference = arguments.what
    usual = tuple(Platform.parse(name) for name in desk.config.jobs.scan_tags.platforms)

    def look() -> tuple[bool, Coverage]:
        coverage = show_image(
            desk.engine,
            desk.tables,
            desk.registry,
            scope,
            reference,
            asked=tuple(arguments.platforms),
            usual=usual,
            now=desk.now(),
        )
        return coverage.whole or coverage.hopeless, coverage

    coverage = _wait_for(look, desk, deadline)
    say(coverage.as_json() if arguments.json else coverage.lines())
    lacks_what_was_asked = bool(arguments.platforms and coverage.absent)
    return FAILED if lacks_what_was_asked or (arguments.wait and not coverage.whole) else DONE


Seen = TypeVar("Seen")


def _wait_for(look: Callable[[], tuple[bool, Seen]], desk: Desk, deadline: float) -> Seen:
    """What `look` gives once it says that it is over, or `deadline` (monotonic) has passed."""
    while True:
        left = deadline - time.monotonic()
        try:
            over, seen = look()
            if over or desk.stop.is_set() or left <= 0:
                return seen
        except (RegistryUnavailable, RegistryTimeout, DatabaseDown) as error:
            # Whoever waits gets over that, unless somebody has to mend it.
            if isinstance(error, DatabaseUnfit) or desk.stop.is_set() or left <= 0:
                raise
        desk.stop.wait(min(_LOOK_EVERY, max(left, 0.0)))


COMMANDS: dict[tuple[str, str | None], Callable[[Desk, argparse.Namespace], int]] = {
    ("backfill", "repository"): backfill_repository,
    ("backfill", "catalog"): backfill_catalog,
    ("backfill", "storage"): backfill_from_storage,
    ("backfill", "legacy"): backfill_from_legacy,
    ("role", "grant"): role_grant,
    ("role", "revoke"): role_revoke,
    ("role", "list"): role_list,
    ("queue", "status"): queue_show,
    ("queue", "retry"): queue_retry,
    ("queue", "drop"): queue_drop,
    ("show", None): show,
}
"""By the command's two words, as core/command_line.py gives them."""


def told(summary: object) -> int:
    """Prints what was done as the last line; the exit status that goes with it."""
    tell(str(summary))
    return status_of(summary)


def status_of(summary: object) -> int:
    """The exit status that goes with what was done."""
    return FAILED if any(getattr(summary, name, 0) for name in _LEFT_UNDONE) else DONE


def _complain(why: str) -> None:
    print(f"docker_torrents: {why}", file=sys.stderr)


def say(what: dict[str, object] | Iterable[str]) -> None:
    """Prints JSON, or lines."""
    if isinstance(what, dict):
        tell(json.dumps(what, indent=2))
    else:
        for line in what:
            tell(line)
