"""Blobs in a registry's storage tree: its `filesystem.rootdirectory`, on a disk or a network file system.

Directories on the path may be symbolic links, as operators move storage to other disks with them. The blob
itself may not: the registry makes no links, and one could point at any file of this machine.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from core.blobs.source import BlobReader, StoredFile
from core.blobs.storage_layout import blob_path, common_folder
from core.errors import NotFound, Refused, RemoteError, Unavailable
from core.layer import Layer

# O_NONBLOCK: opening a FIFO would wait for its writer.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class DirectoryBlobs:
    """Reads `root` + `blob_path_template` (a BlobStorage).

    The registry writes uploads elsewhere and moves them in when they are complete. On a local disk a file
    that is removed while it is read is read to its end. Raises NotFound for a missing blob; Refused if
    permissions or a symbolic link forbid it; Unavailable if the disk fails, or the whole tree is missing: the
    disk may not be mounted.
    """

    parallel = False
    """A disk is fastest when it is read sequentially."""

    def __init__(self, root: Path, blob_path_template: str) -> None:
        self._root = root
        self._template = blob_path_template
        self._folder = root / common_folder(blob_path_template)

    def size(self, layer: Layer) -> int:
        """Return the file's length in bytes."""
        descriptor = self._open(layer)
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def open(self, layer: Layer, offset: int, length: int | None = None) -> FileReader:
        """Return an unbuffered reader of the file. See BlobSource."""
        descriptor = self._open(layer)
        if hasattr(os, "posix_fadvise"):
            # The kernel then reads further ahead. Some file systems do not support it.
            with suppress(OSError):
                os.posix_fadvise(descriptor, offset, length or 0, os.POSIX_FADV_SEQUENTIAL)
        return FileReader(descriptor, self._path(layer), offset, length)

    def check(self) -> str:
        """Return one line on the tree. Raises Refused or Unavailable if it cannot be listed."""
        try:
            with os.scandir(self._folder):
                return f"layers in {self._folder} can be read"
        except OSError as error:
            raise _refusal(error, self._folder) from error

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        """Yield all files below `folder`, with the names of one folder per level in memory. See BlobStorage.

        Links to directories are followed, except cycles. A file that vanishes during the walk is left out.
        The error of a folder that cannot be read is raised at the end. Raises Unavailable if the parent of
        `folder` is missing: the disk may not be mounted.
        """
        top = self._root / folder
        try:
            os.stat(top.parent)
        except OSError as error:
            raise _refusal(error, top) from error
        nothing: frozenset[str] = frozenset()
        # The path down: the remaining entries of each folder, and the links above it.
        stack = [(folder, _entries(str(top)), nothing)]
        failed: RemoteError | None = None
        while stack:
            path, entries, followed = stack[-1]
            if not entries:
                stack.pop()
                continue
            entry = entries.pop()
            below = f"{path}/{entry.name}"
            file: StoredFile | None = None
            try:
                if not _is_folder(entry):
                    file = _file(entry, below)
                elif entry.name not in skipping:
                    target = {os.path.realpath(entry.path)} if entry.is_symlink() else nothing
                    if not target & followed:
                        stack.append((below, _entries(entry.path), followed | target))
            except RemoteError as error:
                failed = failed or error
            if file is not None:
                yield file
        if failed is not None:
            raise failed

    def _path(self, layer: Layer) -> Path:
        return self._root / blob_path(self._template, layer.digest).lstrip("/")

    def _open(self, layer: Layer) -> int:
        """Return a file descriptor of the blob."""
        path = self._path(layer)
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                # An empty mount point must not set aside every layer of the registry.
                self.check()
                raise NotFound(str(path)) from error
            raise _refusal(error, path) from error
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise Refused(str(path), None, "not a regular file")


class FileReader(BlobReader):
    """A file's bytes from `offset` on, all or `length` of them."""

    def __init__(self, descriptor: int, path: Path, offset: int, length: int | None) -> None:
        self._file = io.FileIO(descriptor, "rb")
        self._path = path
        self._left = length
        self._file.seek(offset)

    def readinto(self, buffer: memoryview, /) -> int:
        """See BlobReader. Raises Unavailable if the disk fails, or the reader is closed."""
        if self._left is not None:
            buffer = buffer[: self._left]
            if not buffer:
                return 0
        try:
            count = self._file.readinto(buffer) or 0
        except OSError as error:
            raise Unavailable(str(self._path), error.strerror or str(error)) from error
        except ValueError as error:
            raise Unavailable(str(self._path), "closed while it was read") from error
        if self._left is not None:
            self._left -= count
        return count

    def close(self) -> None:
        self._file.close()


def _refusal(error: OSError, path: Path) -> RemoteError:
    """Return the error for a path that cannot be opened or listed."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return Refused(str(path), None, "permission denied")
    if error.errno == errno.ELOOP:
        return Refused(str(path), None, "a symbolic link")
    return Unavailable(str(path), error.strerror or str(error))


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, in descending order."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name, reverse=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _refusal(error, Path(folder)) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if entry.is_symlink():  # to itself, or to a folder without permission
            return False
        raise _refusal(error, Path(entry.path)) from error


def _file(entry: os.DirEntry[str], path: str) -> StoredFile | None:
    try:
        regular = entry.is_file(follow_symlinks=False)
        return StoredFile(path, entry.stat(follow_symlinks=False).st_size if regular else None)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refusal(error, Path(entry.path)) from error
