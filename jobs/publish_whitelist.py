"""Write the info-hashes of brewed layers to a file, the whitelist of a tracker.

It is opentracker's whitelist (`-w`): 40 hex digits a line. The tracker reads it when it starts and on SIGHUP,
which `reload_command` sends.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from core.errors import LocalFailure
from sql.layers import list_rbtorrent_ids
from sql.tables import Tables
from sql.transaction import reading

log = logging.getLogger(__name__)

RELOAD_SECONDS = 30.0
"""How long `reload_command` may take."""

_BATCH = 10_000
_ID = re.compile(r"rbtorrent:([0-9a-f]{40})\Z")
_MARK = b"reload\n"


@dataclass
class WhitelistSummary:
    """The results of a run. `failed` is 1 if the file was written but the tracker could not be reloaded."""

    hashes: int = 0
    changed: bool = False
    reloaded: bool = False
    failed: int = 0
    busy: bool = False

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.changed or self.reloaded or self.failed)

    @property
    def paused(self) -> str | None:
        """Why work remains for the next run."""
        return "the tracker has not read the file" if self.failed else None

    def __str__(self) -> str:
        if self.busy:
            return "another run is in progress"
        reload = "failed" if self.failed else "done" if self.reloaded else "not needed"
        change = "changed" if self.changed else "unchanged"
        return f"published {self.hashes} info-hashes, {change}, tracker reload {reload}"


def publish_whitelist(
    engine: Engine, tables: Tables, file: Path, reload_command: Sequence[str] = ()
) -> WhitelistSummary:
    """Replace the file if the info-hashes changed, and make the tracker read it.

    The replacement is atomic. If the tracker could not be reloaded, the next run tries again. `<file>.lock`
    is kept next to the file. Raises LocalFailure if the file cannot be written, DatabaseDown.
    """
    summary = WhitelistSummary()
    try:
        with _pending_reload(file) as pending:
            if pending is None:
                return WhitelistSummary(busy=True)
            summary.changed, summary.hashes = _compare(file, _blocks(engine, tables))
            if summary.changed:
                # Before the file is replaced, so that after a crash the next run reloads the tracker.
                pending.note()
                summary.hashes = _replace(file, _blocks(engine, tables))
            if pending.noted and reload_command:
                summary.reloaded = _reload(reload_command)
                summary.failed = int(not summary.reloaded)
            if not summary.failed:
                pending.clear()
    except OSError as error:
        raise LocalFailure(f"{file} cannot be written", error.strerror or str(error)) from error
    return summary


class _PendingReload:
    """The lock file. It is not empty while the tracker has not read the newest file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def noted(self) -> bool:
        return os.fstat(self._descriptor).st_size > 0

    def note(self) -> None:
        """Record on disk that the tracker must be reloaded."""
        os.pwrite(self._descriptor, _MARK, 0)
        os.fsync(self._descriptor)

    def clear(self) -> None:
        os.ftruncate(self._descriptor, 0)


@contextmanager
def _pending_reload(file: Path) -> Iterator[_PendingReload | None]:
    """Lock the file; yields None while another run holds the lock."""
    descriptor = os.open(_neighbour(file, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield _PendingReload(descriptor)
    finally:
        os.close(descriptor)


def _blocks(engine: Engine, tables: Tables) -> Iterator[list[str]]:
    """Yield the info-hashes in batches, in the order of the database. Malformed ids are omitted."""
    after = ""
    while True:
        with reading(engine) as connection:
            ids = list_rbtorrent_ids(connection, tables, after=after, limit=_BATCH)
        if not ids:
            return
        after = ids[-1]
        yield [found[1] for id_ in ids if (found := _ID.match(id_))]


def _lines(hashes: list[str]) -> bytes:
    return "".join(f"{info_hash}\n" for info_hash in hashes).encode()


def _compare(file: Path, blocks: Iterable[list[str]]) -> tuple[bool, int]:
    """Return whether the file differs or is missing; if not, also how many info-hashes it holds."""
    count = 0
    try:
        with file.open("rb") as existing:
            for hashes in blocks:
                lines = _lines(hashes)
                if existing.read(len(lines)) != lines:
                    return True, 0
                count += len(hashes)
            return existing.read(1) != b"", count
    except FileNotFoundError:
        return True, 0


def _replace(file: Path, blocks: Iterable[list[str]]) -> int:
    """Replace the file, keeping its permissions. Return how many info-hashes it has."""
    # A symbolic link is kept.
    target = Path(os.path.realpath(file))
    new, count = _neighbour(target, ".new"), 0
    with new.open("wb") as writing:
        os.fchmod(writing.fileno(), stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o644)
        for hashes in blocks:
            writing.write(_lines(hashes))
            count += len(hashes)
        writing.flush()
        os.fsync(writing.fileno())
    new.replace(target)
    return count


def _neighbour(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _reload(command: Sequence[str]) -> bool:
    """Run the operator's command. Return False, after logging why, if it fails or does not end."""
    try:
        ended = subprocess.run(  # noqa: S603 - the operator's command, without a shell
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=RELOAD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error("tracker not reloaded command=%s reason=%s", command[0], error)
        return False
    if ended.returncode != 0:
        output = " ".join(ended.stderr.decode("utf-8", "replace").split())[:200]
        log.error("tracker not reloaded command=%s status=%d output=%s", command[0], ended.returncode, output)
    return ended.returncode == 0
