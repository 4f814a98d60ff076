"""Scan the tags of every repository that has the role, and queue layers before they are requested."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from core.errors import RemoteError
from jobs.repository_scan import Scan, ScanSummary
from jobs.walk_repositories import CatalogMatches, exact_names, fail_unmatched, walk_repositories
from sql.history import find_cursor, save_cursor
from sql.scopes import list_roles
from sql.transaction import reading, transaction

_NAMED = "scan-tags"
_CATALOG = "scan-tags catalog"


def scan_tags(scan: Scan) -> ScanSummary:
    """Walk the scopes that have the role: exact names, then globs matched against the registry's catalog.

    A tag whose digest was seen costs one HEAD, a manifest seen before no request. The next run continues one
    that ended before the last repository: among the exact names and in the catalog, each from its own
    cursor, so that exact names are scanned even if the catalog cannot be listed. Concurrent scans are
    harmless: layers found by both are queued once. Raises DatabaseDown.
    """
    with reading(scan.engine) as connection:
        patterns = [role.pattern for role in list_roles(connection, scan.service.tables)]
    names = exact_names(patterns)
    is_name = frozenset(names)
    matches = CatalogMatches(scan.registry, patterns)
    named = _Round(scan, _NAMED, names)
    catalog = _Round(scan, _CATALOG, matches)

    def save(scope: str) -> None:
        (named if scope in is_name else catalog).save(scope)

    summary = walk_repositories(scan, chain(named, catalog), "scan", save, named=is_name)
    fail_unmatched(summary, matches)
    return summary


class _Round:
    """Scopes that the last run did not reach; all of them if it reached the last one."""

    def __init__(self, scan: Scan, job: str, scopes: Iterable[str]) -> None:
        self._scan = scan
        self._job = job
        self._scopes = scopes

    def __iter__(self) -> Iterator[str]:
        with reading(self._scan.engine) as connection:
            cursor = find_cursor(connection, self._scan.service.tables, self._job)
        reached = False
        try:
            for scope in after(cursor, self._scopes):
                reached = True
                yield scope
        except RemoteError:
            # If the list fails after the cursor, later runs would never reach the scopes before it.
            if not reached:
                self.save("")
            raise
        self.save("")

    def save(self, scope: str) -> None:
        """Let the next run begin after `scope`; at the beginning if it is empty."""
        with transaction(self._scan.engine) as connection:
            save_cursor(connection, self._scan.service.tables, self._job, scope)


def after(cursor: str, scopes: Iterable[str]) -> Iterator[str]:
    """Yield the scopes after `cursor` in their order; all of them if it is not among them."""
    found = not cursor
    for scope in scopes:
        if found:
            yield scope
        found = found or scope == cursor
    if not found:
        yield from scopes
