"""Walk repositories: read every tag down to its layers, and queue unknown ones."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Engine

from core.digest import Digest
from core.errors import DockerTorrentsError, InvalidName, ManifestInvalid, NotFound, RegistryDown, RemoteError
from core.failures import FailureStreak
from core.layer import Layer
from core.manifests.manifest import LayerDescriptor
from core.manifests.platform import Platform
from core.registry.client import RegistryClient
from core.registry.image_tree import Known, ReadManifest, TreeReader
from jobs.progress import Progress
from jobs.service import Service
from sql.enqueue import enqueue_layers
from sql.layers import known_layers
from sql.manifests import mark_seen, seen_manifests
from sql.tables import Priority
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

MAX_FAILURES = 5
"""Consecutive unanswered requests after which the registry itself is probed."""

_BATCH = 100
"""The most tags whose digests are looked up in the database at once."""

_BATCH_SECONDS = 2.0
"""Seconds after which the tags collected so far are read, so that slow walks make progress."""


@dataclass(frozen=True)
class Scan:
    """The options of a walk.

    `registry` is that of the service, with a limited rate. Layers are queued with `priority`; the walk ends
    after `limit` new layers; with `dry_run` nothing is written. Of an index only `platforms` are read, all of
    them if empty.
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
    """The results of walks. `bytes` are those of the queued layers; only a dry run counts `known` layers.
    `paused` is why the registry did not answer, which ended the walk.
    """

    dry_run: bool = False
    repositories: int = 0
    tags: int = 0
    unchanged: int = 0
    queued: int = 0
    known: int = 0
    bytes: int = 0
    failed: int = 0
    interrupted: bool = False
    paused: str | None = None

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.queued or self.failed or self.interrupted)

    def __str__(self) -> str:
        size = f"{self.bytes / 1e6:.1f} MB"
        did = (
            f"would queue {self.queued} layers ({size}), already known {self.known}"
            if self.dry_run
            else f"queued {self.queued} layers ({size})"
        )
        end = ", interrupted: run it again to continue" if self.interrupted else ""
        end += f", paused: {self.paused}" if self.paused else ""
        return (
            f"{did}, tags {self.tags} (unchanged {self.unchanged}), repositories {self.repositories}, "
            f"failed {self.failed}{end}"
        )


class RepositoryScan:
    """One walk over any number of repositories; `summary` contains its results."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        # At once: without its database a walk should fail before it sends requests to the registry.
        self._engine = scan.engine
        self.summary = ScanSummary(dry_run=scan.dry_run)
        self._streak = FailureStreak(scan.registry.ping, MAX_FAILURES)
        # A dry run writes nothing, so it has to remember what it has counted.
        self._counted: set[Digest] = set()
        # Manifests seen with some platforms only have not been seen for others.
        self._limited = "/" + sha256(" ".join(sorted(map(str, scan.platforms))).encode()).hexdigest()[:16]

    def over(self) -> bool:
        """Return whether the walk must end: it was stopped, or the limit of layers is reached."""
        self.summary.interrupted = self.summary.interrupted or self.scan.service.stop.is_set()
        return self.summary.interrupted or self._left() == 0

    def fail(self, error: Exception) -> None:
        """Count a failure. Raises RegistryDown if the registry no longer answers at all."""
        self.summary.failed += 1
        if self._streak.failed(error):
            raise RegistryDown(str(error)) from error

    def walk(self, scope: str, progress: Progress) -> None:
        """Queue the unknown layers of all tags of `scope`.

        A tag, or a manifest below it, that fails is logged and counted; the others are read. Raises
        RemoteError if the tags cannot be listed, after reading those that could; RegistryDown, DatabaseDown.
        """
        tags: list[str] = []
        broken: RemoteError | None = None
        try:
            tags.extend(self.scan.registry.list_tags(scope))
            self._streak.succeeded()
        except RemoteError as error:
            if not tags:
                raise
            broken = error
        self.summary.repositories += 1
        progress.expect(len(tags))
        reader = TreeReader(
            self.scan.registry,
            scope,
            platforms=self.scan.platforms,
            known=lambda child: self._seen(scope, [child]).get(child, "no"),
            failed=lambda child, error: self._child_failed(scope, child, error),
        )
        heads = self._heads(scope, tags)
        for batch in _timed_batches(heads):
            self._read_tags(scope, reader, batch)
            progress.step(len(batch), note=f"{scope}: {self.summary.queued} layers")
            if self.over():
                return
        if broken is not None:
            raise broken

    def _heads(self, scope: str, tags: Iterable[str]) -> Iterator[tuple[str, Digest | None]]:
        """Yield each tag with its digest, None if that cannot be determined."""
        for tag in tags:
            if self.over():
                return
            digest = None
            try:
                digest = self.scan.registry.head_manifest(scope, tag)
                self._streak.succeeded()
            except NotFound:
                log.info("tag removed during the scan scope=%s tag=%s", scope, tag)
            except (RemoteError, InvalidName) as error:
                self._tag_failed(scope, tag, error)
            self.summary.tags += 1
            yield tag, digest

    def _read_tags(self, scope: str, reader: TreeReader, batch: list[tuple[str, Digest | None]]) -> None:
        digests: dict[Digest, str] = {}
        for tag, digest in batch:
            if digest is not None:
                digests.setdefault(digest, tag)
        seen = self._seen(scope, digests)
        self.summary.unchanged += sum(digest in seen for _, digest in batch)
        for digest, tag in digests.items():
            if self.over():
                return
            if digest not in seen:
                try:
                    self._read(scope, reader, digest)
                    self._streak.succeeded()
                except NotFound:
                    log.info("manifest removed during the scan scope=%s tag=%s digest=%s", scope, tag, digest)
                except (RemoteError, ManifestInvalid, InvalidName) as error:
                    self._tag_failed(scope, tag, error)

    def _seen(self, scope: str, digests: Iterable[Digest]) -> dict[Digest, Known]:
        """Return which manifests had their layers queued before: "in part" if only for these platforms.

        A dry run reads them anyway, to report the layers below them.
        """
        if self.scan.dry_run:
            return {}
        tables, digests = self.scan.service.tables, list(digests)
        with reading(self._engine) as connection:
            whole = seen_manifests(connection, tables, scope, digests)
            in_part = seen_manifests(connection, tables, scope, digests, variant=self._limited)
        return {**dict.fromkeys(in_part, "in part"), **dict.fromkeys(whole, "whole")}

    def _read(self, scope: str, reader: TreeReader, digest: Digest) -> None:
        """Queue the layers below the manifest `digest`, in a transaction for each manifest."""
        for manifest in reader.read(digest):
            self._queue(scope, manifest)
            if self.over():
                return

    def _queue(self, scope: str, manifest: ReadManifest) -> None:
        layers = {layer.digest: layer for layer in manifest.layers if layer.brewable}
        if self.scan.dry_run:
            self._count_only(layers)
            return
        with transaction(self._engine) as connection:
            known = known_layers(connection, self.scan.service.tables, list(layers))
            now = self.scan.service.now(connection)
            new = [layer for digest, layer in layers.items() if digest not in known][: self._left()]
            cut = len(new) + len(known) < len(layers)
            # Known layers too: a repository that holds them, or a higher priority, may be new.
            wanted = known | {layer.digest for layer in new}
            queued = [Layer(digest, (scope,), layers[digest].size) for digest in layers if digest in wanted]
            enqueue_layers(connection, self.scan.service.tables, queued, priority=self.scan.priority, now=now)
            if not (manifest.unread or cut):
                variant = self._limited if manifest.skipped else ""
                tables, read = self.scan.service.tables, [manifest.digest]
                mark_seen(connection, tables, scope, read, now=now, variant=variant)
        self._count_new(new)

    def _left(self) -> int | None:
        """Return how many more layers may be queued, None for any number."""
        return None if self.scan.limit is None else max(0, self.scan.limit - self.summary.queued)

    def _count_only(self, layers: dict[Digest, LayerDescriptor]) -> None:
        """Count each layer of the whole dry run once: as known, or as one that would be queued."""
        first = [digest for digest in layers if digest not in self._counted]
        self._counted.update(first)
        with reading(self._engine) as connection:
            known = known_layers(connection, self.scan.service.tables, first)
        self.summary.known += len(known)
        self._count_new([layers[digest] for digest in first if digest not in known][: self._left()])

    def _count_new(self, layers: Iterable[LayerDescriptor]) -> None:
        for layer in layers:
            self.summary.queued += 1
            self.summary.bytes += layer.size

    def _tag_failed(self, scope: str, tag: str, error: DockerTorrentsError) -> None:
        log.warning("tag failed scope=%s tag=%s reason=%s", scope, tag, error)
        self.fail(error)

    def _child_failed(self, scope: str, child: Digest, error: DockerTorrentsError) -> None:
        """Record a manifest of an index that cannot be read. A missing one may still be pushed."""
        log.warning("child of an index failed scope=%s child=%s reason=%s", scope, child, error)
        if isinstance(error, (NotFound, ManifestInvalid)):
            self._streak.succeeded()
        else:
            self.fail(error)


def _timed_batches(
    heads: Iterable[tuple[str, Digest | None]],
) -> Iterator[list[tuple[str, Digest | None]]]:
    """Yield batches of up to _BATCH tags, or of those received within _BATCH_SECONDS."""
    batch: list[tuple[str, Digest | None]] = []
    began = time.monotonic()
    for head in heads:
        batch.append(head)
        if len(batch) == _BATCH or time.monotonic() - began >= _BATCH_SECONDS:
            yield batch
            batch, began = [], time.monotonic()
    if batch:
        yield batch
