"""What a registry's storage has to offer to be looked through: a list of its files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a storage: its path from the storage's root, without a slash in front, and its bytes.

    `size` is None for what is no regular file, such as a symbolic link.
    """

    path: str
    size: int | None


class Storage(Protocol):
    """A registry's storage. Every one passes the same conformance tests.

    A listing never holds more than a page, or a folder, of names in memory. It raises SourceRefused,
    SourceTimeout or SourceUnavailable where it cannot go on: ending early would pass off a part as all.
    """

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        """All files below `folder`, a path from the root, in the order of their paths.

        What lies in folders named in `skipping` is of no interest; it is left out where that saves work.
        """
        ...
