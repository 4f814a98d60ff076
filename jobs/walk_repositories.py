"""Walks many repositories: by name, by glob, or all of the catalog."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from core.errors import NO_ANSWER, NotFound, RemoteError
from core.names import is_glob, matches
from core.registry.client import RegistryClient
from jobs.progress import Progress
from jobs.repository_scan import RepositoryScan, Scan, ScanSummary

log = logging.getLogger(__name__)

_GIVE_UP = 5
"""So many repositories in a row that the registry is too ill to list, and the walk ends."""


def walk_repositories(
    scan: Scan,
    scopes: Iterable[str],
    what: str,
    walked: Callable[[str], None] = lambda scope: None,
    *,
    named: Collection[str] = (),
) -> ScanSummary:
    """Walks each of `scopes`; one that fails is logged and counted, the others go on.

    One that the registry does not have is a failure if it is `named`, by somebody who may have mistyped it;
    a catalog has repositories without a tag, of which the registry says the same. What was queued stays
    queued when the walk is interrupted, and manifests read before are not read again. `walked` is told of
    each repository that is done with, not of those that the registry did not answer for. Raises DatabaseDown.
    """
    walk = RepositoryScan(scan)
    ill = 0
    with Progress(what, "tags") as progress:
        try:
            for scope in scopes:
                if walk.over():
                    break
                try:
                    walk.walk(scope, progress)
                    ill = 0
                except NotFound as error:
                    ill = 0
                    if scope in named:
                        walk.summary.failed += 1
                        log.warning("repository failed scope=%s reason=%s", scope, error)
                except RemoteError as error:
                    walk.summary.failed += 1
                    log.warning("repository failed scope=%s reason=%s", scope, error)
                    ill = ill + 1 if isinstance(error, NO_ANSWER) else 0
                if walk.over():
                    break
                if not ill:
                    walked(scope)
                if ill == _GIVE_UP:
                    log.error("walk ended, the registry does not answer what=%s", what)
                    break
        except RemoteError as error:
            # `scopes` itself asks the registry, for its catalog.
            walk.summary.failed += 1
            log.error(
                "repositories cannot be listed, only exact names can be walked what=%s reason=%s", what, error
            )
    return walk.summary


def exact_names(patterns: Sequence[str]) -> list[str]:
    """Those of `patterns` that are no globs, each once."""
    return list(dict.fromkeys(pattern for pattern in patterns if not is_glob(pattern)))


def catalog_matching(registry: RegistryClient, patterns: Sequence[str]) -> Iterator[str]:
    """The scopes of the catalog that a glob of `patterns` fits, but for those that are named exactly.

    The catalog is asked only if there is a glob. Raises RemoteError.
    """
    exact = set(exact_names(patterns))
    globs = [pattern for pattern in patterns if is_glob(pattern)]
    if not globs:
        return
    for scope in registry.list_repositories():
        if scope not in exact and any(matches(scope, pattern) for pattern in globs):
            yield scope
