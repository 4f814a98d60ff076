"""The files of a registry's storage tree on a disk (`filesystem.rootdirectory`)."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from core.errors import LayerError, SourceRefused, SourceUnavailable
from core.storages.storage import StoredFile


class DirectoryStorage:
    """Walks the tree below `root` (a Storage), with the names of the folders on the way in memory.

    Links to directories are followed, as operators move parts of a storage to other disks that way, but not
    in circles. Files and folders that vanish during the walk were never there.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        """See Storage. Where not even the folder around `folder` is there, the disk may not be mounted."""
        top = self._root / folder
        try:
            os.stat(top.parent)
        except OSError as error:
            raise _trouble(error, str(top)) from error
        nothing: frozenset[str] = frozenset()
        # Where it is on its way down: what is left of each folder, and the links that led there.
        way = [(folder, _entries(str(top)), nothing)]
        while way:
            path, entries, followed = way[-1]
            if not entries:
                way.pop()
                continue
            entry = entries.pop()
            below = f"{path}/{entry.name}"
            if not _leads_on(entry):
                if (file := _file(entry, below)) is not None:
                    yield file
            elif entry.name not in skipping:
                target = {os.path.realpath(entry.path)} if entry.is_symlink() else nothing
                if not target & followed:
                    way.append((below, _entries(entry.path), followed | target))


def _entries(place: str) -> list[os.DirEntry[str]]:
    """What is in a folder, the last name first."""
    try:
        with os.scandir(place) as entries:
            return sorted(entries, key=lambda entry: entry.name, reverse=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _trouble(error, place) from error


def _leads_on(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if entry.is_symlink():  # to itself, or to where nobody may look
            return False
        raise _trouble(error, entry.path) from error


def _file(entry: os.DirEntry[str], path: str) -> StoredFile | None:
    try:
        regular = entry.is_file(follow_symlinks=False)
        return StoredFile(path, entry.stat(follow_symlinks=False).st_size if regular else None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _trouble(error, entry.path) from error


def _trouble(error: OSError, place: str) -> LayerError:
    if error.errno in (errno.EACCES, errno.EPERM):
        return SourceRefused(place, "this user may not read it")
    return SourceUnavailable(place, error.strerror or str(error))
