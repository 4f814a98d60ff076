"""A layer as the queue and the layer sources name it."""

from __future__ import annotations

from dataclasses import dataclass

from core.digest import Digest


@dataclass(frozen=True, slots=True)
class LayerRef:
    """Where to look for one layer.

    `scopes` are the repositories known to hold it, best first; it may be empty (a row put into the
    queue by hand names none). `size` is what its descriptor says, in bytes, None where nobody said.
    """

    digest: Digest
    scopes: tuple[str, ...] = ()
    size: int | None = None
