"""Walks a repository's tags down to their layers, and queues those not known yet."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice

from sqlalchemy import Engine

from core.digest import Digest
from core.errors import NO_ANSWER, InvalidName, ManifestInvalid, NotFound, RemoteError
from core.layer import Layer
from core.manifests.manifest import LayerDescriptor
from core.manifests.platform import Platform
from core.registry.client import RegistryClient
from core.registry.image_tree import Known, ReadManifest, read_tree
from jobs.progress import Progress
from jobs.service import Service
from sql.enqueue import enqueue_layers
from sql.layers import known_layers
from sql.manifests import mark_seen, seen_manifests
from sql.tables import Priority
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

_ENOUGH_SILENCE = 5
"""Tags in a row that the registry does not answer for: then the repository is left alone."""

_BATCH = 100
"""Tags whose digests are looked up in the database at once."""


@dataclass(frozen=True)
class Scan:
    """How to walk repositories.

    `registry` is that of the service, at a pace. `priority` is given to what is queued; the walk ends after
    `limit` new layers; with `dry_run` nothing is written. `platforms` are the only ones of an index that are
    read, all of them if empty.
    """

    service: Service
    registry: RegistryClient
    priority: Priority
    platforms: tuple[Platform, ...] = ()
    limit: int | None = None
    dry_run: bool = False

    @property
    def engine(self) -> Engine:
        return self.service.reader if self.dry_run else self.service.database


@dataclass
class ScanSummary:
    """What walks did; `bytes` are those of the layers queued. A dry run also counts `known` ones."""

    dry_run: bool = False
    repositories: int = 0
    tags: int = 0
    unchanged: int = 0
    queued: int = 0
    known: int = 0
    bytes: int = 0
    failed: int = 0
    interrupted: bool = False

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.queued or self.failed or self.interrupted)

    def __str__(self) -> str:
        size = f"{self.bytes / 1e6:.1f} MB"
        did = (
            f"would queue {self.queued} layers ({size}), known already {self.known}"
            if self.dry_run
            else f"queued {self.queued} layers ({size})"
        )
        end = ", interrupted: run it again to go on" if self.interrupted else ""
        return (
            f"{did}, tags {self.tags} (unchanged {self.unchanged}), repositories {self.repositories}, "
            f"failed {self.failed}{end}"
        )


class RepositoryScan:
    """One walk over any number of repositories; `summary` adds up what it did."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.summary = ScanSummary(dry_run=scan.dry_run)
        # A dry run writes nothing, so what it has counted it has to remember.
        self._counted: set[Digest] = set()
        self._silent = 0
        # What was seen with some platforms only is not seen for other ones.
        self._limited = "/" + sha256(" ".join(sorted(map(str, scan.platforms))).encode()).hexdigest()[:16]

    def over(self) -> bool:
        """Whether the walk has to end: it was told to, or has queued as many layers as it may."""
        self.summary.interrupted = self.summary.interrupted or self.scan.service.stop.is_set()
        limit = self.scan.limit
        return self.summary.interrupted or (limit is not None and self.summary.queued >= limit)

    def walk(self, scope: str, progress: Progress) -> None:
        """Queues the unknown layers of all tags of `scope`.

        A tag that fails is logged and counted, the others go on. Raises RemoteError if the tags
        cannot be listed, DatabaseDown if what was found cannot be written.
        """
        tags = list(self.scan.registry.list_tags(scope))
        self.summary.repositories += 1
        progress.expect(len(tags))
        for batch in _batches(tags, _BATCH):
            if self.over():
                return
            self._walk_tags(scope, batch, progress)

    def _walk_tags(self, scope: str, tags: list[str], progress: Progress) -> None:
        heads: list[Digest] = []
        digests: dict[Digest, str] = {}
        self._silent = 0
        for tag in tags:
            if self.over():
                return
            try:
                digest = self.scan.registry.head_manifest(scope, tag)
                heads.append(digest)
                digests.setdefault(digest, tag)
                self._silent = 0
            except NotFound:
                log.info("tag gone during the scan scope=%s tag=%s", scope, tag)
            except (RemoteError, ManifestInvalid, InvalidName) as error:
                self._failed(scope, tag, error)
        self.summary.tags += len(tags)
        seen = self._seen(scope, digests)
        self.summary.unchanged += sum(digest in seen for digest in heads)
        for digest, tag in digests.items():
            if self.over():
                return
            if digest not in seen:
                try:
                    self._read(scope, digest)
                    self._silent = 0
                except NotFound:
                    log.info("manifest gone during the scan scope=%s tag=%s digest=%s", scope, tag, digest)
                except (RemoteError, ManifestInvalid, InvalidName) as error:
                    self._failed(scope, tag, error)
        progress.step(len(tags), note=f"{scope}: {self.summary.queued} layers")

    def _seen(self, scope: str, digests: Iterable[Digest]) -> dict[Digest, Known]:
        """Those of the manifests all of whose wanted layers were queued before, or all of them.

        A dry run reads them all the same: it is to say what is below them.
        """
        if self.scan.dry_run:
            return {}
        tables, digests = self.scan.service.tables, list(digests)
        with reading(self.scan.engine) as connection:
            whole = seen_manifests(connection, tables, scope, digests)
            in_part = seen_manifests(connection, tables, scope, digests, variant=self._limited)
        return {**dict.fromkeys(in_part, "in part"), **dict.fromkeys(whole, "whole")}

    def _read(self, scope: str, digest: Digest) -> None:
        """Queues what is below the manifest `digest`, a transaction for each manifest."""
        manifests = read_tree(
            self.scan.registry,
            scope,
            digest,
            platforms=self.scan.platforms,
            known=lambda child: self._seen(scope, [child]).get(child, "no"),
        )
        for manifest in manifests:
            for child in manifest.missing:
                log.warning("child missing scope=%s index=%s child=%s", scope, manifest.digest, child)
            self._queue(scope, manifest)
            if self.over():
                return

    def _queue(self, scope: str, manifest: ReadManifest) -> None:
        layers = {layer.digest: layer for layer in manifest.layers if layer.brewable}
        if self.scan.dry_run:
            self._count_only(layers)
            return
        with transaction(self.scan.engine) as connection:
            known = known_layers(connection, self.scan.service.tables, list(layers))
            now = self.scan.service.now()
            new = [Layer(layer.digest, (scope,), layer.size) for layer in layers.values()]
            enqueue_layers(connection, self.scan.service.tables, new, priority=self.scan.priority, now=now)
            if not manifest.missing:
                variant = self._limited if manifest.skipped else ""
                tables, read = self.scan.service.tables, [manifest.digest]
                mark_seen(connection, tables, scope, read, now=now, variant=variant)
        self._count_new(layer for digest, layer in layers.items() if digest not in known)

    def _count_only(self, layers: dict[Digest, LayerDescriptor]) -> None:
        """Counts each layer of the whole dry run once: as known, or as one that would be queued."""
        first = [digest for digest in layers if digest not in self._counted]
        self._counted.update(first)
        with reading(self.scan.engine) as connection:
            known = known_layers(connection, self.scan.service.tables, first)
        self.summary.known += len(known)
        self._count_new(layers[digest] for digest in first if digest not in known)

    def _count_new(self, layers: Iterable[LayerDescriptor]) -> None:
        for layer in layers:
            self.summary.queued += 1
            self.summary.bytes += layer.size

    def _failed(self, scope: str, tag: str, error: Exception) -> None:
        """Counts a tag that failed. Raises the error when it was the last of too many without an answer."""
        self.summary.failed += 1
        log.warning("tag failed scope=%s tag=%s reason=%s", scope, tag, error)
        ill = isinstance(error, NO_ANSWER)
        self._silent = self._silent + 1 if ill else 0
        if self._silent == _ENOUGH_SILENCE:
            raise error


def _batches(items: Iterable[str], size: int) -> Iterator[list[str]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
