"""`backfill`: queue existing layers of repositories, the catalog or the storage; import an older service's
ids.
"""

from __future__ import annotations

import argparse
from itertools import chain

from core.command_line import add_actions, add_command, named, positive, positive_number
from core.names import parse_pattern, parse_scope
from core.output import print_line
from jobs.backfill_legacy import Takeover, backfill_legacy
from jobs.backfill_storage import StorageScan, backfill_storage
from jobs.repository_scan import Scan
from jobs.role_commands import PATTERN_HELP
from jobs.service import Service, with_service
from jobs.summary import exit_status, print_summary
from jobs.verify_ids import verify_ids
from jobs.walk_repositories import CatalogMatches, exact_names, fail_unmatched, walk_repositories
from sql.tables import Priority


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the actions of `backfill`."""
    backfill = add_actions(command)
    repository = add_command(
        backfill,
        "repository",
        "Queue all layers of all tags of some repositories.",
        "backfill repository --dry-run library/ubuntu library/debian",
        with_service(_repository),
    )
    repository.add_argument(
        "scopes", nargs="+", type=named(parse_scope), metavar="SCOPE",
        help="a repository, for example library/ubuntu",
    )  # fmt: skip
    _add_limits(repository)
    catalog = add_command(
        backfill,
        "catalog",
        "Queue all layers of all repositories, or of those that match a glob.",
        "backfill catalog --rate 50 'library/*'",
        with_service(_catalog),
    )
    catalog.add_argument(
        "patterns", nargs="*", type=named(parse_pattern), metavar="SCOPE|GLOB",
        help=f"{PATTERN_HELP} (default: all)",
    )  # fmt: skip
    _add_limits(catalog)
    storage = add_command(
        backfill,
        "storage",
        "Queue all layers in the registry's storage: every blob except JSON documents such as manifests, "
        "configs and attestations. Known layers are not read, so a second run continues the first.",
        "backfill storage --from s3 --dry-run",
        with_service(_storage),
    )
    storage.add_argument(
        "--from", dest="storage", choices=("directory", "s3", "mds"),
        help="the storage to read, configured in the sections layers or mds (default: layers.source)",
    )  # fmt: skip
    _add_limits(storage)
    legacy = add_command(
        backfill,
        "legacy",
        "Import the ids that an older service stored in db.old_table_name by the keys of MDS. Only clients "
        "of that service understand them: these layers have no .torrent and are not brewed.",
        "backfill legacy --dry-run --verify 100",
        with_service(_legacy),
    )
    _add_limits(legacy)
    legacy.add_argument(
        "--verify", type=positive, default=0, metavar="N",
        help="afterwards read N random layers and check that they are complete and that their ids are "
        "BitTorrent info-hashes",
    )  # fmt: skip


def _add_limits(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dry-run", action="store_true", help="only count, write nothing")
    command.add_argument("--limit", type=positive, metavar="N", help="stop after N new layers (or ids)")
    command.add_argument(
        "--rate", type=positive_number, metavar="R", help="at most R requests (legacy: rows) a second"
    )


def _repository(service: Service, arguments: argparse.Namespace) -> int:
    scopes = arguments.scopes
    return print_summary(walk_repositories(_scan(service, arguments), scopes, "backfill", named=scopes))


def _catalog(service: Service, arguments: argparse.Namespace) -> int:
    scan = _scan(service, arguments)
    patterns = arguments.patterns or ["*"]
    names = exact_names(patterns)
    matches = CatalogMatches(scan.registry, patterns)
    summary = walk_repositories(scan, chain(names, matches), "backfill", named=names)
    fail_unmatched(summary, matches)
    return print_summary(summary)


def _scan(service: Service, arguments: argparse.Namespace) -> Scan:
    return Scan(
        service,
        registry=service.registry.paced(service.pace(arguments.rate)),
        priority=Priority.BACKFILLED,
        limit=arguments.limit,
        dry_run=arguments.dry_run,
    )


def _storage(service: Service, arguments: argparse.Namespace) -> int:
    return print_summary(
        backfill_storage(
            StorageScan(
                service,
                storage=service.blobs.storage(arguments.storage),
                rate=arguments.rate,
                limit=arguments.limit,
                dry_run=arguments.dry_run,
            )
        )
    )


def _legacy(service: Service, arguments: argparse.Namespace) -> int:
    takeover = Takeover(
        service,
        rate=arguments.rate,
        limit=arguments.limit,
        dry_run=arguments.dry_run,
        sample=arguments.verify,
    )
    summary = backfill_legacy(takeover)
    if not arguments.verify:
        return print_summary(summary)
    print_line(str(summary))
    verified = print_summary(
        verify_ids(
            service.source,
            summary.sample,
            private=service.config.torrents.private,
            connections=service.config.layers.connections,
            stop=service.stop,
        )
    )
    return max(exit_status(summary), verified)
