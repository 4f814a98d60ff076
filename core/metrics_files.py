"""The directory in which the processes of one service share the values of their metrics.

prometheus_client keeps files of each process there, named by its id, and maps them into memory. The
directory is in a file system in memory, if there is one: a write to a mapped file kills the process when the
disk is full. https://prometheus.github.io/client_python/multiprocess/
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_MEMORY = Path("/dev/shm")  # noqa: S108  # the directory created there has a random name and mode 0700
_PREFIX = "docker-torrents-metrics-"
_ROOM_BYTES = 8 * 1024 * 1024


def create_directory(link: Path, memory: Path = _MEMORY) -> None:
    """Make `link` point to a new, empty directory, and remove its former one.

    The caller must hold a lock.
    """
    remove_directory(link)
    parent = memory if _has_room(memory) else link.parent
    link.symlink_to(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))


def _has_room(memory: Path) -> bool:
    """Return whether this process may write there, and the disk has space for its files: some MiB."""
    if not os.access(memory, os.W_OK | os.X_OK):
        return False
    disk = os.statvfs(memory)
    return disk.f_bavail * disk.f_frsize >= _ROOM_BYTES


def remove_directory(link: Path) -> None:
    """Remove `link` and its directory."""
    with suppress(OSError):
        target = Path(os.readlink(link))
        if target.name.startswith(_PREFIX):
            shutil.rmtree(target, ignore_errors=True)
    link.unlink(missing_ok=True)


def adopt_dead_files(directory: Path) -> None:
    """Take over the files of dead processes: their values are kept, and files do not accumulate.

    Call this before prometheus_client is imported: it continues with the values of existing files.
    """
    with _locked(directory, fcntl.LOCK_EX):
        for file in sorted(directory.glob("*.db")):
            kind, _, process = file.stem.rpartition("_")
            own = directory / f"{kind}_{os.getpid()}.db"
            if not own.exists() and process.isdigit() and _has_ended(int(process)):
                file.rename(own)


@contextmanager
def value_files(directory: Path) -> Iterator[list[str]]:
    """Yield the files with values, which are not taken over during the block."""
    with _locked(directory, fcntl.LOCK_SH):
        # A file that is just being created is empty.
        yield [str(file) for file in directory.glob("*.db") if file.stat().st_size > 0]


@contextmanager
def _locked(directory: Path, how: int) -> Iterator[None]:
    directory.mkdir(mode=0o700, exist_ok=True)
    with (directory / "lock").open("a") as lock:
        fcntl.flock(lock, how)
        yield


def _has_ended(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        # The id has been reused by another user's process.
        return True
    return False
