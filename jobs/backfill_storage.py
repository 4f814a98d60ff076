"""Queue the layers in a registry's storage, found by listing its files (with jobs/layer_detection.py)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from core.blobs.source import BlobStorage, StoredFile
from core.blobs.storage_layout import MANIFESTS, position_of
from core.digest import Digest
from core.errors import RemoteError
from core.layer import Layer
from jobs.layer_detection import LayerDetector
from jobs.progress import Progress
from jobs.service import Service
from sql.enqueue import enqueue_layers
from sql.history import find_cursor, save_cursor
from sql.layers import known_layers
from sql.scopes import remember_scopes
from sql.tables import Priority
from sql.transaction import reading, transaction

log = logging.getLogger(__name__)

_JOB = "backfill storage"
_BATCH = 1_000
"""Files that are listed, looked up and queued at a time."""


@dataclass(frozen=True)
class StorageScan:
    """The options of a scan. `rate` limits reads a second; the scan ends after `limit` new layers; with
    `dry_run` nothing is written.
    """

    service: Service
    storage: BlobStorage
    rate: float | None = None
    limit: int | None = None
    dry_run: bool = False


@dataclass
class StorageSummary:
    """The results: `bytes` of the queued layers; `others` are manifests, configs and empty blobs; `unread`
    are blobs that could not be read; `links` record which repository holds a layer.
    """

    dry_run: bool = False
    queued: int = 0
    bytes: int = 0
    known: int = 0
    others: int = 0
    foreign: int = 0
    uploads: int = 0
    links: int = 0
    unread: int = 0
    broken: str | None = None
    interrupted: bool = False

    @property
    def failed(self) -> int:
        """Whether anything was not read, for the exit status."""
        return self.unread + (self.broken is not None)

    def __str__(self) -> str:
        verb = "would queue" if self.dry_run else "queued"
        end = ", interrupted: run it again to continue" if self.interrupted else ""
        if self.broken is not None:
            end = f", the storage failed, run it again to continue: {self.broken}"
        return (
            f"{verb} {self.queued} layers ({self.bytes / 1e6:.1f} MB), known {self.known}, "
            f"other blobs {self.others}, foreign files {self.foreign}, partial uploads {self.uploads}, "
            f"repositories' links {self.links}, unread {self.unread}{end}"
        )


def backfill_storage(scan: StorageScan) -> StorageSummary:
    """Queue the unknown layers of the storage, then record which repositories hold them.

    Known layers are skipped before anything is read, so a later or concurrent run continues where the other
    one is. After a run that ended early, the next one does not read again the blobs that are not layers;
    after one that reached the end, or could not list everything, it does. If the storage as a whole fails,
    the run ends, and the layers found so far are queued. With a limit, the run that reaches the end of the
    blobs records the links. Raises DatabaseDown.
    """
    run = _Backfill(scan)
    for part in (run.queue_blobs, run.record_links):
        if run.over() or run.detector.down is not None:
            break
        try:
            part()
        except RemoteError as error:
            log.error("storage not read to its end reason=%s", error)
            run.summary.broken = run.summary.broken or str(error)
            # Folders that could not be listed may be readable then, and blobs may be added anywhere.
            run.start_over()
    return run.summary


class _Backfill:
    def __init__(self, scan: StorageScan) -> None:
        service = scan.service
        self.scan = scan
        self.service = service
        self.engine = service.reader if scan.dry_run else service.database
        self.layout = service.blobs.layout
        self.readers = service.config.layers.connections
        self.detector = LayerDetector(scan.storage, self.readers, service.pace(scan.rate), service.stop)
        self.summary = StorageSummary(dry_run=scan.dry_run)
        self._cursor = "" if scan.dry_run else self._find_cursor()

    def over(self) -> bool:
        """Return whether to end: stopped, or the limit of layers is reached."""
        self.summary.interrupted = self.summary.interrupted or self.service.stop.is_set()
        limit = self.scan.limit
        return self.summary.interrupted or (limit is not None and self.summary.queued >= limit)

    def _find_cursor(self) -> str:
        with reading(self.engine) as connection:
            return find_cursor(connection, self.service.tables, _JOB)

    def queue_blobs(self) -> None:
        """Read all unknown blobs, and queue those that are layers."""
        scan = self.scan
        with (
            Progress("backfill storage", "blobs") as progress,
            ThreadPoolExecutor(self.readers, thread_name_prefix="read blobs") as pool,
        ):
            seen = 0
            for batch in _batches(scan.storage.files(self.layout.blobs)):
                if self.over():
                    return
                self._queue(self._unknown(batch), pool)
                seen += len(batch)
                digest = self.layout.digest_of(batch[-1].path)
                if digest is not None:
                    progress.estimate(round(seen / max(position_of(digest), 1e-9)))
                progress.step(len(batch), note=f"{self.summary.queued} layers")
            if not seen:
                log.warning("no blob found, is this the registry's storage? folder=%s", self.layout.blobs)
        self.start_over()

    def start_over(self) -> None:
        """Let the next run read all blobs, unless this one ended early."""
        if not (self.scan.dry_run or self.over() or self.detector.down is not None):
            with transaction(self.engine) as connection:
                save_cursor(connection, self.service.tables, _JOB, "")

    def record_links(self) -> None:
        """Record which repositories hold the known layers, and count unfinished uploads."""
        scan = self.scan
        if self.layout.repositories is None:
            return
        upload: str | None = None
        files = scan.storage.files(self.layout.repositories, frozenset({MANIFESTS}))
        with Progress("links of repositories", "files") as progress:
            for batch in _batches(files):
                if self.over():
                    return
                links = [link for file in batch if (link := self.layout.link_at(file.path)) is not None]
                if links and not scan.dry_run:
                    with transaction(self.engine) as connection:
                        self.summary.links += remember_scopes(connection, self.service.tables, links)
                for file in batch:
                    part = self.layout.upload_at(file.path)
                    # The files of an upload follow one another.
                    self.summary.uploads += part is not None and part != upload
                    upload = part or upload
                progress.step(len(batch), note=f"{self.summary.links} links")

    def _unknown(self, batch: list[StoredFile]) -> list[Layer]:
        """Return the blobs among the files that are not known yet, and were not read by the last run."""
        blobs: dict[Digest, Layer] = {}
        for file in batch:
            digest = self.layout.digest_of(file.path)
            if digest is None or file.size is None:
                self.summary.foreign += 1
                log.debug("foreign file path=%s", file.path)
            elif not file.size:
                self.summary.others += 1
            else:
                blobs[digest] = Layer(digest, size=file.size)
        with reading(self.engine) as connection:
            known = known_layers(connection, self.service.tables, blobs)
        self.summary.known += len(known)
        unknown = [blob for digest, blob in blobs.items() if digest not in known]
        new = [blob for blob in unknown if str(blob.digest) > self._cursor]
        self.summary.others += len(unknown) - len(new)
        return new

    def _queue(self, blobs: list[Layer], pool: ThreadPoolExecutor) -> None:
        """Read the first bytes of blobs, and queue the layers; with a limit, no more than needed."""
        scan, at = self.scan, 0
        while at < len(blobs) and not self.over():
            left = len(blobs) if scan.limit is None else scan.limit - self.summary.queued
            detected = self.detector.detect(blobs[at : at + max(left, self.readers)], pool)
            at += detected.read
            self.summary.others += detected.others
            self.summary.unread += detected.unread
            layers = detected.layers[:left]
            queued = len(layers)
            if not scan.dry_run:
                with transaction(self.engine) as connection:
                    now = self.service.now(connection)
                    queued = enqueue_layers(
                        connection, self.service.tables, layers, priority=Priority.BACKFILLED, now=now
                    )
                    # What could not be read is read again by the next run, with all behind it.
                    if at and len(layers) < left and not self.summary.unread:
                        save_cursor(connection, self.service.tables, _JOB, str(blobs[at - 1].digest))
            self.summary.queued += queued
            self.summary.known += len(layers) - queued
            self.summary.bytes += sum(layer.size or 0 for layer in layers)
            if self.detector.down is not None:
                raise self.detector.down


def _batches(files: Iterable[StoredFile]) -> Iterator[list[StoredFile]]:
    """Yield files in batches, the files before a failure of the listing included."""
    batch: list[StoredFile] = []
    try:
        for file in files:
            batch.append(file)
            if len(batch) == _BATCH:
                yield batch
                batch = []
    except RemoteError:
        if batch:
            yield batch
        raise
    if batch:
        yield batch
