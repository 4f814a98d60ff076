"""Looks for layers in the registry: in the repositories that held them, and then in all there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from core.digest import Digest
from core.errors import (
    InvalidName,
    NotInRegistry,
    RegistryError,
    RegistryNonsense,
    RegistryTimeout,
    RegistryUnavailable,
)
from core.layer import LayerRef
from core.presence.presence import ENOUGH_SILENCE, Look

QUESTIONS = 100_000
"""Questions to the registry, at most, for the layers of one run that have to be looked for everywhere:
about ten minutes.
"""

_SILENCE = (RegistryTimeout, RegistryUnavailable)


class BlobAsker(Protocol):
    """The calls of the registry client that are needed here."""

    def ping(self) -> str: ...

    def blob_size(self, scope: str, digest: Digest) -> int: ...

    def list_repositories(self, *, complete: bool) -> Iterator[str]: ...


class RegistryLookout:
    """Asks for a blob by HEAD, repository by repository (a Lookout).

    A blob may be in repositories that nobody here knows of. So one that is in none of the known ones counts
    as gone only when the whole catalog was asked. A registry that does not give its catalog, names
    a repository there by what is no name here, or does not answer for a single one, leaves it unanswered.
    """

    def __init__(self, registry: BlobAsker, questions: int = QUESTIONS) -> None:
        self._registry = registry
        self._questions = questions

    def check(self) -> None:
        """See Lookout. Raises RegistryError."""
        self._registry.ping()

    def look(self, layer: LayerRef) -> Look:
        """See Lookout. One without known repositories is in none of them."""
        unanswered = None
        for scope in layer.scopes:
            look = self._ask(layer, scope)
            if look.presence == "there":
                return look
            if look.presence == "unanswered":
                unanswered = look
        return unanswered or Look(layer, "gone")

    def look_everywhere(self, layers: Sequence[LayerRef], over: Callable[[], bool]) -> Iterator[Look]:
        """See Lookout. At least one layer is looked for, however many repositories there are.

        The catalog is listed again after the last question, and its new repositories are asked as well, until
        there are none: the questions take minutes, and somebody may push a layer meanwhile. When the registry
        falls silent, those left are unanswered.
        """
        left: dict[int, LayerRef] = dict(enumerate(layers))
        unanswered: dict[int, Look] = {}
        asked: set[str] = set()
        silent = 0
        try:
            scopes = self._catalog()
            left = dict(enumerate(layers[: max(1, self._questions // len(scopes))]))
            while new := [scope for scope in scopes if scope not in asked]:
                for scope in new:
                    # A repository after the other, and not a layer: each one costs a token.
                    for number, layer in list(left.items()):
                        if over():
                            return
                        look = self._ask(layer, scope)
                        silent = silent + 1 if look.silent else 0
                        if look.presence == "there":
                            del left[number]
                            unanswered.pop(number, None)
                            yield look
                        elif look.presence == "unanswered":
                            unanswered[number] = look
                        if silent == ENOUGH_SILENCE:
                            raise RegistryUnavailable(scope, f"no answer to {silent} questions in a row")
                    if not left:
                        return
                asked.update(new)
                scopes = self._catalog()
        except RegistryError as error:
            unanswered = {
                number: Look(layer, "unanswered", why=str(error), silent=isinstance(error, _SILENCE))
                for number, layer in left.items()
            }
        for number, layer in left.items():
            yield unanswered.get(number) or Look(layer, "gone")

    def _catalog(self) -> list[str]:
        """All repositories. Raises RegistryError, also if there is none, or one that cannot be asked."""
        scopes = list(self._registry.list_repositories(complete=True))
        if not scopes:
            raise RegistryNonsense("catalog", "it has no repository at all")
        return scopes

    def _ask(self, layer: LayerRef, scope: str) -> Look:
        try:
            self._registry.blob_size(scope, layer.digest)
        except (NotInRegistry, InvalidName):
            return Look(layer, "gone")
        except RegistryError as error:
            return Look(layer, "unanswered", why=str(error), silent=isinstance(error, _SILENCE))
        return Look(layer, "there", scope)
