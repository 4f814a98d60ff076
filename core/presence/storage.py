"""Looks for layers in the storage that they are read from, which knows best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from core.errors import LayerError, LayerMissing, SourceRefused, SourceUnavailable
from core.layer import LayerRef
from core.presence.presence import Look
from core.sources.source import LayerSource
from core.storages.storage import Storage


class StorageLookout:
    """Asks `source` for a layer's size (a Lookout). `storage` is the same place, with its blobs in `folder`.

    A registry gives a blob if its storage has it, in whatever repository; one that is not in the storage
    cannot be pulled.
    """

    def __init__(self, source: LayerSource, storage: Storage, folder: str) -> None:
        self._source = source
        self._storage = storage
        self._folder = folder

    def check(self) -> None:
        """See Lookout. Raises LayerError."""
        if next(iter(self._storage.files(self._folder)), None) is None:
            raise SourceUnavailable(self._folder, "it holds no blob at all")

    def look(self, layer: LayerRef) -> Look:
        """See Lookout."""
        try:
            self._source.size(layer)
        except LayerMissing:
            return Look(layer, "gone")
        except LayerError as error:
            silent = not isinstance(error, SourceRefused)
            return Look(layer, "unanswered", why=str(error), silent=silent)
        return Look(layer, "there")

    def look_everywhere(self, layers: Sequence[LayerRef], over: Callable[[], bool]) -> Iterator[Look]:
        """See Lookout. There is nowhere else to look."""
        for layer in layers:
            if over():
                return
            yield self.look(layer)
