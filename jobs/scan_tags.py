"""Looks at the tags of every repository that has the role, and queues layers before anybody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from jobs.repository_scan import Scan, ScanSummary
from jobs.walk_repositories import catalog_matching, exact_names, walk_repositories
from sql.cursors import find_cursor, save_cursor
from sql.scopes import list_roles
from sql.transaction import reading, transaction

_NAMED = "scan-tags"
_CATALOG = "scan-tags catalog"


def scan_tags(scan: Scan) -> ScanSummary:
    """Walks the scopes that have the role: exact names, then globs resolved against the registry's catalog.

    A tag whose digest was seen costs one HEAD, a manifest seen before nothing. A run that was ended before
    the last repository is gone on with by the next one: among the exact names or in the catalog, each from
    its own place, so that a catalog that cannot be had never keeps the names from being scanned. Two scans
    at once do no harm: what both find is queued once. Raises DatabaseDown.
    """
    with reading(scan.engine) as connection:
        patterns = [role.pattern for role in list_roles(connection, scan.service.tables)]
    names = exact_names(patterns)
    is_name = frozenset(names)
    named = _Round(scan, _NAMED, lambda: names)
    catalog = _Round(scan, _CATALOG, lambda: catalog_matching(scan.registry, patterns))

    def keep(scope: str) -> None:
        (named if scope in is_name else catalog).keep(scope)

    return walk_repositories(scan, chain(named, catalog), "scan", keep, named=is_name)


class _Round:
    """Scopes of which a run walks those that the last one did not come to; all, if it came to all of them."""

    def __init__(self, scan: Scan, job: str, scopes: Callable[[], Iterable[str]]) -> None:
        self._scan = scan
        self._job = job
        self._scopes = scopes

    def __iter__(self) -> Iterator[str]:
        with reading(self._scan.engine) as connection:
            place = find_cursor(connection, self._scan.service.tables, self._job)
        yield from after(place, self._scopes)
        self.keep("")

    def keep(self, scope: str) -> None:
        """Have the next run begin behind `scope`, or at the beginning."""
        with transaction(self._scan.engine) as connection:
            save_cursor(connection, self._scan.service.tables, self._job, scope)


def after(place: str, scopes: Callable[[], Iterable[str]]) -> Iterator[str]:
    """The scopes behind `place` in their order, whatever that is; all of them if it is not among them."""
    found = not place
    for scope in scopes():
        if found:
            yield scope
        found = found or scope == place
    if not found:
        yield from scopes()
