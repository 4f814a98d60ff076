"""Blobs from the registry itself, by the repositories that hold them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from cachetools import LRUCache

from core.digest import Digest
from core.errors import BadAnswer, InvalidName, NotFound, Refused
from core.http.ranged import BlobStream
from core.layer import Layer
from core.registry.client import RegistryClient

CandidateScopes = Callable[[], Iterable[str]]
"""Returns the repositories to search for a layer of unknown repository, best first."""

_MAX_FOUND = 1024

_Got = TypeVar("_Got")


class RegistryBlobs:
    """Reads a blob from the first of a layer's repositories that has it (a BlobSource).

    A layer without known repositories (a row inserted by hand) is searched for in `candidate_scopes`. That
    takes one request for each repository up to the first that has it, and one for a token if the registry
    requires tokens: some 20 s for 10,000 repositories at 2 ms a request. The result is remembered for the
    next ranges.

    A scope that the registry refuses counts as one that does not have the blob, unless none has it:
    then Refused is raised. NotFound names the scopes; TimedOut, Unavailable.
    """

    parallel = True

    def __init__(self, registry: RegistryClient, candidate_scopes: CandidateScopes = tuple) -> None:
        self._registry = registry
        self._candidate_scopes = candidate_scopes
        self._found: LRUCache[Digest, str] = LRUCache(_MAX_FOUND)
        self._lock = threading.Lock()

    def size(self, layer: Layer) -> int:
        """Return the blob's size in bytes, by HEAD; the one in its descriptor if the registry states none."""
        size = self._first(layer, lambda scope: self._registry.blob_size(scope, layer.digest))
        size = layer.size if size is None else size
        if size is None:
            raise BadAnswer(f"blob {layer.digest}", "the registry does not state its size")
        return size

    def open(self, layer: Layer, offset: int, length: int | None = None) -> BlobStream:
        """Return a reader of the blob, or of a range of it. See BlobSource."""
        return self._first(layer, lambda scope: self._registry.open_blob(scope, layer.digest, offset, length))

    def check(self) -> str:
        """Return one line on the registry, after it has accepted the credentials."""
        return self._registry.ping()

    def _first(self, layer: Layer, ask: Callable[[str], _Got]) -> _Got:
        """Return what `ask` returns for the first repository that has the layer."""
        tried = 0
        refused: Refused | None = None
        for scope in self._scopes(layer):
            tried += 1
            try:
                got = ask(scope)
            except (NotFound, InvalidName):
                with self._lock:
                    self._found.pop(layer.digest, None)
            except Refused as error:
                refused = error
            else:
                with self._lock:
                    self._found[layer.digest] = scope
                return got
        if refused is not None:
            raise refused
        raise NotFound(f"blob {layer.digest} in {_searched(layer, tried)}")

    def _scopes(self, layer: Layer) -> Iterator[str]:
        """Yield each repository to search once, best first."""
        with self._lock:
            known = self._found.get(layer.digest)
        if known is not None:
            yield known
        seen = {known}
        for scope in layer.scopes or self._candidate_scopes():
            if scope not in seen:
                seen.add(scope)
                yield scope


def _searched(layer: Layer, tried: int) -> str:
    """Return the repositories that were searched for a layer, for a message."""
    if layer.scopes:
        return ", ".join(layer.scopes[:5]) + (" …" if len(layer.scopes) > 5 else "")
    return f"the {tried} repositories searched"
