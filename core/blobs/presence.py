"""Check whether layers still exist, in a registry or its storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from core.blobs.source import BlobStorage
from core.errors import BadAnswer, InvalidName, LayerError, NotFound, RemoteError, Unavailable
from core.failures import FailureStreak
from core.layer import Layer
from core.registry.client import RegistryClient

MAX_CONSECUTIVE_FAILURES = 20
"""Unanswered requests in a row after which the registry itself is probed."""

Presence = Literal["there", "missing", "unanswered"]
"""The finding. "missing" requires a clear answer; any failure is "unanswered"."""


@dataclass(frozen=True, slots=True)
class PresenceResult:
    """The outcome of a check: `scope` has the layer, if known; `error` is why there was no answer."""

    layer: Layer
    presence: Presence
    scope: str | None = None
    error: RemoteError | LayerError | None = None


class PresenceChecker(Protocol):
    """Checks for layers in a registry or a storage."""

    def check(self) -> None:
        """Raise DockerTorrentsError if it cannot be reached, or is empty: then it is not the place that
        layers were brewed from, and its answers do not count.
        """
        ...

    def locate(self, layer: Layer) -> PresenceResult:
        """Check the known places of the layer. "missing" means missing from these."""
        ...

    def locate_everywhere(
        self, layers: Sequence[Layer], over: Callable[[], bool]
    ) -> Iterator[PresenceResult]:
        """Check every possible place, for as many of the layers, in order, as one run allows.

        `over` is called before each request; once it returns true, the remaining layers are not checked.
        """
        ...


MAX_REQUESTS = 100_000
"""The maximum number of requests for layers of one run that are checked everywhere: about ten minutes."""


class RegistryPresence:
    """Requests blobs by HEAD, repository by repository (a PresenceChecker).

    A blob may be in unknown repositories, so one that is in none of the known ones counts as missing only
    when the whole catalog was checked. If the registry withholds its catalog, lists an invalid name in it,
    or does not answer for one repository, the layer is unanswered.
    """

    def __init__(self, registry: RegistryClient, max_requests: int = MAX_REQUESTS) -> None:
        self._registry = registry
        self._max_requests = max_requests

    def check(self) -> None:
        """See PresenceChecker. Raises RemoteError."""
        self._registry.ping()

    def locate(self, layer: Layer) -> PresenceResult:
        """See PresenceChecker. A layer without known repositories is missing."""
        unanswered = None
        for scope in layer.scopes:
            result = self._look_up(layer, scope)
            if result.presence == "there":
                return result
            if result.presence == "unanswered":
                unanswered = result
        return unanswered or PresenceResult(layer, "missing")

    def locate_everywhere(
        self, layers: Sequence[Layer], over: Callable[[], bool]
    ) -> Iterator[PresenceResult]:
        """See PresenceChecker. At least one layer is checked, whatever the number of repositories.

        The catalog is listed again after the last request, and new repositories are checked too, until there
        are none: the requests take minutes, and a layer may be pushed meanwhile. When the registry becomes
        silent, the remaining layers are unanswered.
        """
        left: dict[int, Layer] = dict(enumerate(layers))
        unanswered: dict[int, PresenceResult] = {}
        checked: set[str] = set()
        streak = FailureStreak(self._registry.ping, MAX_CONSECUTIVE_FAILURES)
        try:
            scopes = self._catalog()
            left = dict(enumerate(layers[: max(1, self._max_requests // len(scopes))]))
            while new := [scope for scope in scopes if scope not in checked]:
                for scope in new:
                    # Repository by repository, not layer by layer: each repository costs a token.
                    for number, layer in list(left.items()):
                        if over():
                            return
                        result = self._look_up(layer, scope)
                        if result.error is None:
                            streak.succeeded()
                        elif streak.failed(result.error):
                            raise result.error
                        if result.presence == "there":
                            del left[number]
                            unanswered.pop(number, None)
                            yield result
                        elif result.presence == "unanswered":
                            unanswered[number] = result
                    if not left:
                        return
                checked.update(new)
                scopes = self._catalog()
        except RemoteError as error:
            unanswered = {
                number: PresenceResult(layer, "unanswered", error=error) for number, layer in left.items()
            }
        for number, layer in left.items():
            yield unanswered.get(number) or PresenceResult(layer, "missing")

    def _catalog(self) -> list[str]:
        """Return all repositories. Raises RemoteError, also for an empty list."""
        scopes = list(self._registry.list_repositories(complete=True))
        if not scopes:
            raise BadAnswer(
                "the registry's catalog", "it is empty: is docker_registry.host another registry?"
            )
        return scopes

    def _look_up(self, layer: Layer, scope: str) -> PresenceResult:
        try:
            self._registry.blob_size(scope, layer.digest)
        except (NotFound, InvalidName):
            return PresenceResult(layer, "missing")
        except RemoteError as error:
            return PresenceResult(layer, "unanswered", error=error)
        return PresenceResult(layer, "there", scope)


class StoragePresence:
    """Checks in the registry's storage, whose blobs are in `folder` (a PresenceChecker).

    A registry serves a blob from its storage, for any repository; a blob that is missing there cannot be
    pulled.
    """

    def __init__(self, storage: BlobStorage, folder: str) -> None:
        self._storage = storage
        self._folder = folder

    def check(self) -> None:
        """See PresenceChecker. Raises RemoteError."""
        if next(iter(self._storage.files(self._folder)), None) is None:
            raise Unavailable(self._folder, "it holds no blobs: is it the storage of another registry?")

    def locate(self, layer: Layer) -> PresenceResult:
        """See PresenceChecker."""
        try:
            self._storage.size(layer)
        except NotFound:
            return PresenceResult(layer, "missing")
        except (RemoteError, LayerError) as error:
            return PresenceResult(layer, "unanswered", error=error)
        return PresenceResult(layer, "there")

    def locate_everywhere(
        self, layers: Sequence[Layer], over: Callable[[], bool]
    ) -> Iterator[PresenceResult]:
        """See PresenceChecker. There is no other place."""
        for layer in layers:
            if over():
                return
            yield self.locate(layer)
