"""Import the rbtorrent ids that an older service stored by the keys of MDS.

Such an id may not be a BitTorrent info-hash; then only clients of the older service understand it. There is
no metainfo for it: `/v0/torrents` answers 404 for a layer whose id was imported, and the layer is not brewed,
as it has an id. So this is for installations whose clients know the old ids; others brew everything instead.
"""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from sqlalchemy import Connection

from core.blobs.mds import MdsFile, parse_mdsfileinfo
from core.digest import Digest
from jobs.progress import Progress
from jobs.service import Service
from sql.legacy_ids import (
    LegacyId,
    OldId,
    Outcome,
    adopt_legacy_ids,
    classify_legacy_ids,
    drop_old_ids,
    list_untaken_old_ids,
    stage_old_ids,
    take_old_ids,
)
from sql.mds_files import MdsRow, read_file_rows, read_mds_rows
from sql.transaction import reading, temporary_tables, transaction

log = logging.getLogger(__name__)

_BATCH = 5_000
_SHOWN = 10
"""How many rows are logged for each reason not to import them; all are counted."""

_ID = re.compile(r"rbtorrent:[0-9a-f]{40}\Z")

_WHY: dict[Outcome, str] = {
    "has another": "its layer has another id",
    "another layer's": "another layer has the id",
    "being brewed": "its layer is being brewed",
}


@dataclass(frozen=True)
class Takeover:
    """The options of an import. `rate` is rows of the old table a second, None for no limit; the import ends
    after `limit` ids; `sample` is how many layers are drawn for verification. With `dry_run` nothing is
    written.
    """

    service: Service
    rate: float | None = None
    limit: int | None = None
    dry_run: bool = False
    sample: int = 0


@dataclass(frozen=True, slots=True)
class TakenOver:
    """A layer with an id of the older service; `size` in bytes, None if MDS does not have it."""

    digest: Digest
    size: int | None
    rbtorrent_id: str


@dataclass
class TakeoverSummary:
    """The results for the `rows` of the old table: `taken` over, `known` before, and the others by reason.

    `unreadable` counts blobs with an invalid mdsfileinfo: an id stored by its key is not found. `sample`
    are layers whose id is the old one, drawn at random.
    """

    dry_run: bool = False
    rows: int = 0
    taken: int = 0
    known: int = 0
    unmatched: Counter[str] = field(default_factory=Counter)
    unreadable: int = 0
    interrupted: bool = False
    sample: list[TakenOver] = field(default_factory=list)

    def __str__(self) -> str:
        verb = "would take over" if self.dry_run else "took over"
        reasons = ", ".join(f"{why}: {count}" for why, count in self.unmatched.most_common())
        broken = f", mdsfileinfo unreadable {self.unreadable}" if self.unreadable else ""
        end = ", interrupted: run it again to continue" if self.interrupted else ""
        return (
            f"{verb} {self.taken} of {self.rows} ids, {self.known} known already, "
            f"not taken {self.unmatched.total()}{f' ({reasons})' if reasons else ''}{broken}{end}"
        )


def backfill_legacy(takeover: Takeover) -> TakeoverSummary:
    """Import all ids that match a layer, and count the others by reason.

    The key of a row may be the one that MDS gave the file (in mdsfileinfo), or the driver's own. Each batch
    is a transaction: an interruption loses at most the current one, and another run continues.
    Raises DatabaseDown.
    """
    run = _Run(takeover)
    with temporary_tables(run.engine) as connection:
        run.run(connection)
        drop_old_ids(connection, run.service.tables)
    return run.summary


@dataclass(frozen=True, slots=True)
class _Match:
    """A row of the old table with the file of its key; `file` is None if its mdsfileinfo cannot be read."""

    old: OldId
    row: MdsRow
    file: MdsFile | None


class _Run:
    def __init__(self, takeover: Takeover) -> None:
        self.takeover = takeover
        self.service = takeover.service
        self.engine = self.service.reader if takeover.dry_run else self.service.database
        self.summary = TakeoverSummary(dry_run=takeover.dry_run)
        # One transaction contains the writes of about two seconds.
        self._per_commit = _BATCH if takeover.rate is None else max(1, min(_BATCH, int(2 * takeover.rate)))
        self._pace = self.service.pace(takeover.rate)
        self._logged: Counter[str] = Counter()
        self._drawn_from = 0

    def run(self, connection: Connection) -> None:
        """Read the files of MDS: blobs first, then, while rows are left, the other files, for the reason."""
        tables = self.service.tables
        self.summary.rows = stage_old_ids(connection, tables)
        folder = f"/{self.service.blobs.layout.blobs}/"
        files = partial(read_file_rows, connection, tables, folder=folder, limit=_BATCH)
        with Progress("backfill legacy", "ids", total=self.summary.rows) as progress:
            for page in self._pages(lambda after: files(outside=False, after=after)):
                self._take(self._matches(connection, page, progress))
            for page in self._pages(lambda after: files(outside=True, after=after)):
                for match in self._matches(connection, page, progress):
                    self._not_taken("its file is not a blob", match.old)
            keys = partial(read_mds_rows, connection, tables, limit=_BATCH)
            for page in self._pages(lambda after: keys(after=after)):
                for match in self._matches(connection, page, progress):
                    why = "deleted in MDS" if match.row.deleted else "no file for its key"
                    self._not_taken(why, match.old)
            if not self._over():
                left, some = list_untaken_old_ids(connection, tables, limit=_SHOWN)
                for old in some:
                    self._not_taken("key not in MDS", old)
                if left > len(some):
                    self.summary.unmatched["key not in MDS"] += left - len(some)
                progress.step(left)

    def _over(self) -> bool:
        self.summary.interrupted = self.summary.interrupted or self.service.stop.is_set()
        limit = self.takeover.limit
        return self.summary.interrupted or (limit is not None and self.summary.taken >= limit)

    def _pages(self, read: Callable[[str | None], tuple[list[MdsRow], str | None]]) -> Iterator[list[MdsRow]]:
        """Yield pages from `read`, until the end or until no rows are left."""
        last: str | None = None
        while not self._over() and self._accounted() < self.summary.rows:
            page, last = read(last)
            if last is None:
                return
            yield page

    def _accounted(self) -> int:
        """Return how many rows of the old table have been handled."""
        return self.summary.taken + self.summary.known + self.summary.unmatched.total()

    def _matches(self, connection: Connection, page: list[MdsRow], progress: Progress) -> list[_Match]:
        """Return the rows of the old table that have a key of one of these files."""
        files: dict[str, tuple[MdsRow, MdsFile | None]] = {}
        for row in page:
            file = _mds_file(row)
            self.summary.unreadable += file is None and row.path is not None
            found = row, file
            files.setdefault(row.key, found)
            if file is not None:
                files.setdefault(file.key, found)
        by_key: dict[str, list[OldId]] = {}
        for old in take_old_ids(connection, self.service.tables, files):
            by_key.setdefault(old.mds_key or "", []).append(old)
        progress.step(sum(len(olds) for olds in by_key.values()), note=f"{self.summary.taken} taken over")
        matches = []
        for key, olds in by_key.items():
            if len({old.rbtorrent_id for old in olds}) > 1:
                for old in olds:
                    self._not_taken("several ids for its key", old)
                continue
            matches.append(_Match(olds[0], *files[key]))
            for old in olds[1:]:
                self._not_taken("duplicate row", old)
        return matches

    def _take(self, matches: list[_Match]) -> None:
        """Import the ids of these blobs, in one transaction."""
        wanted: dict[LegacyId, tuple[TakenOver, OldId]] = {}
        for match in matches:
            old, file = match.old, match.file
            digest = self.service.blobs.layout.digest_of(match.row.path or "")
            if old.rbtorrent_id is None or not _ID.match(old.rbtorrent_id):
                self._not_taken("malformed id", old)
            elif match.row.deleted:
                self._not_taken("deleted in MDS", old)
            elif digest is None:
                self._not_taken("no digest in the path of its file", old)
            else:
                layer = TakenOver(digest, file.size if file else None, old.rbtorrent_id)
                made = LegacyId(digest, old.rbtorrent_id)
                if made in wanted:
                    self._not_taken("duplicate row", old)
                wanted[made] = layer, old
        for made, outcome in self._write(list(wanted)).items():
            layer, old = wanted[made]
            if outcome == "taken" or outcome == "had it":
                self.summary.taken += outcome == "taken"
                self.summary.known += outcome == "had it"
                self._draw(layer)
            else:
                self._not_taken(_WHY[outcome], old)

    def _write(self, ids: list[LegacyId]) -> dict[LegacyId, Outcome]:
        """Write the new ones of `ids`, up to the limit, at the rate. Return the outcome of each."""
        tables, limit = self.service.tables, self.takeover.limit
        if not ids:
            return {}
        with reading(self.engine) as connection:
            outcomes = classify_legacy_ids(connection, tables, ids)
        new = [made for made in ids if outcomes[made] == "taken"]
        left = len(new) if limit is None else limit - self.summary.taken
        # The ids beyond the limit are left for another run, and not counted.
        for made in new[left:]:
            del outcomes[made]
        new = new[:left]
        if self.takeover.dry_run:
            return outcomes
        for start in range(0, len(new), self._per_commit):
            some = new[start : start + self._per_commit]
            self._pace.wait(len(some))
            if self.service.stop.is_set():
                for made in new[start:]:
                    del outcomes[made]
                break
            with transaction(self.engine) as connection:
                now = self.service.now(connection)
                outcomes |= adopt_legacy_ids(connection, tables, some, now=now)
        return outcomes

    def _not_taken(self, why: str, old: OldId) -> None:
        self.summary.unmatched[why] += 1
        self._logged[why] += 1
        if self._logged[why] <= _SHOWN:
            log.warning(
                "id not taken over mds_key=%.100r rbtorrent_id=%.100r reason=%s",
                *(old.mds_key, old.rbtorrent_id, why),
            )

    def _draw(self, layer: TakenOver) -> None:
        """Keep a uniform sample of all layers so far (Vitter, algorithm R)."""
        self._drawn_from += 1
        sample = self.summary.sample
        if len(sample) < self.takeover.sample:
            sample.append(layer)
        elif (place := random.randrange(self._drawn_from)) < self.takeover.sample:  # noqa: S311 - no secret
            sample[place] = layer


def _mds_file(row: MdsRow) -> MdsFile | None:
    try:
        return parse_mdsfileinfo(row.info or "")
    except ValueError:
        return None
