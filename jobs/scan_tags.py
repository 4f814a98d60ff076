"""Looks at the tags of every repository that has the role, and queues layers before anybody asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from jobs.repository_scan import Scan, ScanSummary
from jobs.walk_repositories import scopes_matching, walk_repositories
from sql.places import find_place, keep_place
from sql.roles import list_roles
from sql.transaction import reading, transaction

_JOB = "scan-tags"


def scan_tags(scan: Scan) -> ScanSummary:
    """Walks the scopes that have the role, globs resolved against the registry's catalog.

    A tag whose digest was seen costs one HEAD, a manifest seen before nothing. A run that was ended before
    the last repository is gone on with by the next one. Two scans at once do no harm: what both find is
    queued once. Raises DatabaseDown.
    """
    with reading(scan.engine) as connection:
        patterns = [role.pattern for role in list_roles(connection, scan.tables)]
        place = find_place(connection, scan.tables, _JOB)

    def keep(scope: str) -> None:
        with transaction(scan.engine) as connection:
            keep_place(connection, scan.tables, _JOB, scope)

    coming = _Coming(after(place, lambda: scopes_matching(scan.registry, patterns)))
    summary = walk_repositories(scan, coming, "scan", keep)
    if coming.ended:
        keep("")
    return summary


class _Coming:
    """An iterable that knows whether it was read to its end."""

    def __init__(self, scopes: Iterable[str]) -> None:
        self._scopes = iter(scopes)
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        yield from self._scopes
        self.ended = True


def after(place: str, scopes: Callable[[], Iterable[str]]) -> Iterator[str]:
    """The scopes behind `place` in their order, whatever that is; all of them if it is not among them."""
    found = not place
    for scope in scopes():
        if found:
            yield scope
        found = found or scope == place
    if not found:
        yield from scopes()
