"""The files of a registry with the MDS driver, as its table `mfs` has them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from core.storages.storage import StoredFile

ReadPage = Callable[[str, str | None], tuple[Sequence[tuple[str, int | None]], str | None]]
"""From a folder's path and the path read last (None: from the beginning) to the next files, as paths and
sizes in bytes, and the path read last, None at the end. It may raise what databases raise."""


class MdsStorage:
    """Pages through the table (a Storage). Its paths have a slash in front, as the driver writes them."""

    def __init__(self, read_page: ReadPage) -> None:
        self._read_page = read_page

    def files(self, folder: str, skipping: frozenset[str] = frozenset()) -> Iterator[StoredFile]:
        """See Storage. Raises DatabaseDown beside that."""
        page, last = self._read_page(f"/{folder}/", None)
        while last is not None:
            for path, size in page:
                yield StoredFile(path.lstrip("/"), size)
            page, last = self._read_page(f"/{folder}/", last)
