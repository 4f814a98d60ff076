"""What there is to ask whether a layer is still there: a registry, or its storage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from core.layer import LayerRef

ENOUGH_SILENCE = 20
"""Questions in a row that nobody answers: then there is no sense in asking more."""

Presence = Literal["there", "gone", "unanswered"]
"""What was found out. "gone" takes an answer that says so; whatever else went wrong is "unanswered"."""


@dataclass(frozen=True, slots=True)
class Look:
    """The outcome of looking for a layer: `scope` holds it, where that was found out; `why` there was no
    answer, and whether that was for nobody's answering (`silent`), not for a refusal.
    """

    layer: LayerRef
    presence: Presence
    scope: str | None = None
    why: str | None = None
    silent: bool = False


class Lookout(Protocol):
    """A place to look for layers in."""

    def check(self) -> None:
        """Raises DockerTorrentsError if the place is out of reach, or holds nothing at all: then it is not
        the place that layers were brewed from, and its word on them is worth nothing.
        """
        ...

    def look(self, layer: LayerRef) -> Look:
        """A look at where the layer was. "gone" means no more than that it is not there."""
        ...

    def look_everywhere(self, layers: Sequence[LayerRef], over: Callable[[], bool]) -> Iterator[Look]:
        """A look wherever the layers could be, for as many of them, in their order, as one run may do.

        `over` is asked before each question; once it says so, nothing more is found out about the others.
        """
        ...
