"""Walk many repositories: by name, by glob, or all of the catalog."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from core.errors import NO_ANSWER, NotFound, RegistryDown, RemoteError
from core.names import is_glob, matches
from core.registry.client import RegistryClient
from jobs.progress import Progress
from jobs.repository_scan import RepositoryScan, Scan, ScanSummary

log = logging.getLogger(__name__)


def walk_repositories(
    scan: Scan,
    scopes: Iterable[str],
    name: str,
    walked: Callable[[str], None] = lambda scope: None,
    *,
    named: Collection[str] = (),
) -> ScanSummary:
    """Walk each of `scopes`; one that fails is logged and counted, the others are walked.

    `name` is that of the walk, in log lines and on the bar.
    A repository that the registry does not have is a failure if it is one of `named`, which the user entered;
    a catalog also lists repositories without tags, for which the registry's answer is the same. `walked` is
    called after each repository, even a failed one, but not if the registry is down: then the walk ends.
    After an interruption queued layers stay queued, and manifests read before are not read again. Raises
    DatabaseDown.
    """
    walk = RepositoryScan(scan)
    with Progress(name, "tags") as progress:
        try:
            for scope in scopes:
                if walk.over():
                    break
                _walk_one(walk, scope, progress, named=scope in named)
                if walk.over():
                    break
                walked(scope)
        except RegistryDown as down:
            walk.summary.paused = str(down)
            log.error("scan ended, the registry does not answer name=%s reason=%s", name, down)
        except RemoteError as error:
            # Iterating over `scopes` reads the registry's catalog.
            walk.summary.failed += 1
            walk.summary.paused = str(error) if isinstance(error, NO_ANSWER) else None
            log.error(
                "repositories cannot be listed, only exact names can be walked name=%s reason=%s", name, error
            )
    return walk.summary


def _walk_one(walk: RepositoryScan, scope: str, progress: Progress, *, named: bool) -> None:
    try:
        walk.walk(scope, progress)
    except NotFound as error:
        if named:
            log.warning("repository failed scope=%s reason=%s", scope, error)
            walk.fail(error)
    except RemoteError as error:
        log.warning("repository failed scope=%s reason=%s", scope, error)
        walk.fail(error)


def exact_names(patterns: Sequence[str]) -> list[str]:
    """Return those of `patterns` that are not globs, each once."""
    return list(dict.fromkeys(pattern for pattern in patterns if not is_glob(pattern)))


class CatalogMatches:
    """The repositories of the catalog that match a glob of `patterns`, except those named exactly.

    The catalog is read only if there is a glob. Iterating raises RemoteError. `unmatched` holds the globs
    that matched nothing, once the whole catalog was listed; until then it is empty.
    """

    def __init__(self, registry: RegistryClient, patterns: Sequence[str]) -> None:
        self._registry = registry
        self._exact = set(exact_names(patterns))
        self._globs = list(dict.fromkeys(pattern for pattern in patterns if is_glob(pattern)))
        self.unmatched: list[str] = []

    def __iter__(self) -> Iterator[str]:
        if not self._globs:
            return
        matched: set[str] = set()
        for scope in self._registry.list_repositories():
            found = [glob for glob in self._globs if matches(scope, glob)]
            matched.update(found)
            if found and scope not in self._exact:
                yield scope
        self.unmatched = [glob for glob in self._globs if glob not in matched]


def fail_unmatched(summary: ScanSummary, matches: CatalogMatches) -> None:
    """Count the globs that matched no repository as failures, and log them."""
    for glob in matches.unmatched:
        summary.failed += 1
        log.warning("no repository in the registry's catalog matches pattern=%s", glob)
