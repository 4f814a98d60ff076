"""Layers from a registry's storage tree: its `filesystem.rootdirectory`, on a disk or a network file system.

Directories on the way may be symbolic links, as operators move storage to other disks that way; the
blob itself may not. The registry never makes links, and one could point at any file of this machine.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from core.errors import LayerError, LayerMissing, SourceRefused, SourceUnavailable
from core.layer import LayerRef
from core.sources.blob_path import blob_path, common_folder

# O_NONBLOCK: opening a FIFO would wait for its writer.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class DirectorySource:
    """Reads `root` + `blob_path_template` (a LayerSource).

    Only whole blobs are there: the registry writes uploads elsewhere and moves them in. A file that is
    removed while it is read is read to its end on a local disk. Raises LayerMissing where there is no
    such blob; SourceRefused where permissions or a symbolic link forbid it; SourceUnavailable on any
    other trouble of the disk, and where the tree is not there at all, as with a disk that is not mounted.
    """

    parallel = False
    """A disk is fastest when it is read in one go."""

    def __init__(self, root: Path, blob_path_template: str) -> None:
        self._root = root
        self._template = blob_path_template
        self._folder = root / common_folder(blob_path_template)

    def size(self, layer: LayerRef) -> int:
        """The file's length in bytes."""
        descriptor = self._open(layer)
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def open(self, layer: LayerRef, offset: int, length: int | None = None) -> FileReader:
        """A reader of the file, unbuffered. See LayerSource."""
        descriptor = self._open(layer)
        if hasattr(os, "posix_fadvise"):
            # The kernel then reads further ahead. Some file systems do not take advice.
            with suppress(OSError):
                os.posix_fadvise(descriptor, offset, length or 0, os.POSIX_FADV_SEQUENTIAL)
        return FileReader(descriptor, self._path(layer), offset, length)

    def check(self) -> str:
        """One line on the tree. Raises SourceRefused or SourceUnavailable if it cannot be listed."""
        try:
            with os.scandir(self._folder):
                return f"layers in {self._folder} can be read"
        except OSError as error:
            raise _refusal(error, self._folder) from error

    def _path(self, layer: LayerRef) -> Path:
        return self._root / blob_path(self._template, layer.digest).lstrip("/")

    def _open(self, layer: LayerRef) -> int:
        """A file descriptor of the blob."""
        path = self._path(layer)
        try:
            descriptor = os.open(path, _FLAGS)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                # An empty mount point must not set aside every layer of the registry.
                self.check()
                raise LayerMissing(str(layer.digest), str(path)) from error
            raise _refusal(error, path) from error
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
        os.close(descriptor)
        raise SourceRefused(str(path), "not a regular file")


class FileReader:
    """A file's bytes from `offset` on, `length` of them or all (a core.sources.source.BlobReader)."""

    def __init__(self, descriptor: int, path: Path, offset: int, length: int | None) -> None:
        self._file = io.FileIO(descriptor, "rb")
        self._path = path
        self._left = length
        self._file.seek(offset)

    @property
    def file(self) -> io.FileIO:
        """The file at its next byte, for a server that sends files by itself; it ends where the blob does."""
        return self._file

    def readinto(self, buffer: memoryview, /) -> int:
        """As BlobReader's. Raises SourceUnavailable when the disk fails, or the reader is closed."""
        if self._left is not None:
            buffer = buffer[: self._left]
            if not buffer:
                return 0
        try:
            count = self._file.readinto(buffer) or 0
        except OSError as error:
            raise SourceUnavailable(str(self._path), error.strerror or str(error)) from error
        except ValueError as error:
            raise SourceUnavailable(str(self._path), "closed while it was read") from error
        if self._left is not None:
            self._left -= count
        return count

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        self.close()


def _refusal(error: OSError, path: Path) -> LayerError:
    """What it means that `path` cannot be opened."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return SourceRefused(str(path), "this user may not read it")
    if error.errno == errno.ELOOP:
        return SourceRefused(str(path), "it is a symbolic link")
    return SourceUnavailable(str(path), error.strerror or str(error))
