"""Writes the info-hashes of what is brewed to a file, for a tracker that serves nothing else.

That is opentracker's whitelist (`-w`): 40 hex digits a line. The tracker reads it when it starts, and again
when it is told to (SIGHUP), which `reload_command` does.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from core.errors import PublishFailed
from sql.layers import list_rbtorrent_ids
from sql.tables import Tables
from sql.transaction import reading

log = logging.getLogger(__name__)

RELOAD_SECONDS = 30.0
"""How long the command may take."""

_BATCH = 10_000
_ID = re.compile(r"rbtorrent:([0-9a-f]{40})\Z")
_OWED = b"reload\n"


@dataclass
class WhitelistSummary:
    """What a run did. `failed` is 1 if the file is written, but the tracker could not be told."""

    hashes: int = 0
    changed: bool = False
    reloaded: bool = False
    failed: int = 0
    busy: bool = False

    @property
    def idle(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.changed or self.reloaded or self.failed)

    def __str__(self) -> str:
        if self.busy:
            return "another run is at it"
        told = "reload failed" if self.failed else "tracker told" if self.reloaded else "tracker not told"
        return f"published {self.hashes} info-hashes, {'changed' if self.changed else 'unchanged'}, {told}"


def publish_whitelist(
    engine: Engine, tables: Tables, file: Path, reload_command: Sequence[str] = ()
) -> WhitelistSummary:
    """Puts a new file in the place of the old one, if it is another, and has the tracker read it.

    Readers see the old file or the new one, whole. A tracker that could not be told is told by the next run.
    Beside the file there is `<file>.lock`. Raises PublishFailed if the file cannot be written, DatabaseDown.
    """
    try:
        with _owed(file) as owed:
            if owed is None:
                return WhitelistSummary(busy=True)
            return _publish(lambda: _blocks(engine, tables), file, reload_command, owed)
    except OSError as error:
        raise PublishFailed(str(file), error.strerror or str(error)) from error


def _publish(
    blocks: Callable[[], Iterator[list[str]]], file: Path, reload_command: Sequence[str], owed: _Owed
) -> WhitelistSummary:
    summary = WhitelistSummary()
    summary.changed, summary.hashes = _compare(file, blocks())
    if summary.changed:
        # Before the file is replaced, so that after a crash the next run tells the tracker.
        owed.note()
        summary.hashes = _replace(file, blocks())
    if owed.noted and reload_command:
        summary.reloaded = _reload(reload_command)
        summary.failed = int(not summary.reloaded)
    if not summary.failed:
        owed.clear()
    return summary


class _Owed:
    """The lock file, in which it is noted that the tracker has not been told of the newest file yet."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @property
    def noted(self) -> bool:
        return os.fstat(self._descriptor).st_size > 0

    def note(self) -> None:
        """Survives whatever comes after it."""
        os.pwrite(self._descriptor, _OWED, 0)
        os.fsync(self._descriptor)

    def clear(self) -> None:
        os.ftruncate(self._descriptor, 0)


@contextmanager
def _owed(file: Path) -> Iterator[_Owed | None]:
    """Only one run at a time gets it; the others None."""
    descriptor = os.open(_beside(file, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            yield _Owed(descriptor)
    finally:
        os.close(descriptor)


def _blocks(engine: Engine, tables: Tables) -> Iterator[list[str]]:
    """The info-hashes in the order of the database, some at a time. What is no id of ours is left out."""
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
    """Whether the file holds something else, or is not there; and if not, how many info-hashes it holds."""
    count = 0
    try:
        with file.open("rb") as there:
            for hashes in blocks:
                lines = _lines(hashes)
                if there.read(len(lines)) != lines:
                    return True, 0
                count += len(hashes)
            return there.read(1) != b"", count
    except FileNotFoundError:
        return True, 0


def _replace(file: Path, blocks: Iterable[list[str]]) -> int:
    """Puts a new file in the old one's place, as readable as it was. Returns how many info-hashes it has."""
    # A link stays what it is.
    place = Path(os.path.realpath(file))
    new, count = _beside(place, ".new"), 0
    with new.open("wb") as writing:
        os.fchmod(writing.fileno(), stat.S_IMODE(place.stat().st_mode) if place.exists() else 0o644)
        for hashes in blocks:
            writing.write(_lines(hashes))
            count += len(hashes)
        writing.flush()
        os.fsync(writing.fileno())
    new.replace(place)
    return count


def _beside(file: Path, suffix: str) -> Path:
    return file.with_name(file.name + suffix)


def _reload(command: Sequence[str]) -> bool:
    """Runs the operator's command. False, and a line in the log, if it fails or does not end."""
    try:
        ended = subprocess.run(  # noqa: S603 - the operator's own words, and no shell
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=RELOAD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.error("tracker not told command=%s reason=%s", command[0], error)
        return False
    if ended.returncode != 0:
        said = " ".join(ended.stderr.decode("utf-8", "replace").split())[:200]
        log.error("tracker not told command=%s status=%d said=%s", command[0], ended.returncode, said)
    return ended.returncode == 0
