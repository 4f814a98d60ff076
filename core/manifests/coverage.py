"""The layers of an image, and how many of them are brewed."""

from __future__ import annotations

from dataclasses import dataclass

from core.digest import Digest
from core.manifests.manifest import LayerDescriptor
from core.manifests.platform import Platform

NOT_BREWABLE = "not brewed here"


@dataclass(frozen=True)
class ImageContents:
    """The contents of a tag or digest: the layers of all its platforms, each once, from the base up.

    `missing` are manifests that the registry does not have. Of an index, `platforms` are those examined,
    `left_out` those not examined, and `absent` those that were requested but have no image. `cut` says that
    the index was too large to examine as a whole.
    """

    image: str
    layers: tuple[LayerDescriptor, ...]
    missing: tuple[Digest, ...] = ()
    platforms: tuple[Platform, ...] = ()
    left_out: tuple[Platform, ...] = ()
    absent: tuple[Platform, ...] = ()
    cut: bool = False


@dataclass(frozen=True)
class ImageLayer:
    """A layer of an image. `state` is that of the queue, `unknown`, or NOT_BREWABLE."""

    digest: Digest
    size: int
    state: str
    rbtorrent_id: str | None = None
    why: str | None = None


@dataclass(frozen=True)
class Coverage:
    """How much of an image is brewed. `layers` are those of `contents`, in the same order."""

    contents: ImageContents
    layers: tuple[ImageLayer, ...]

    @property
    def brewed(self) -> tuple[ImageLayer, ...]:
        return tuple(layer for layer in self.layers if layer.state == "brewed")

    @property
    def lacking(self) -> tuple[ImageLayer, ...]:
        """Layers that can be brewed and are not."""
        return tuple(layer for layer in self.layers if layer.state not in ("brewed", NOT_BREWABLE))

    @property
    def bytes_brewed(self) -> int:
        return sum(layer.size for layer in self.brewed)

    @property
    def bytes_brewable(self) -> int:
        return self.bytes_brewed + sum(layer.size for layer in self.lacking)

    @property
    def percent(self) -> float:
        """The share of bytes that is brewed, of those that can be."""
        total = self.bytes_brewable
        return 100 * self.bytes_brewed / total if total else 100.0 * self.whole

    @property
    def whole(self) -> bool:
        """Whether everything that can be brewed is brewed, for the platforms examined."""
        contents = self.contents
        return not (self.lacking or contents.missing or contents.absent or contents.cut)

    @property
    def all_lacking_set_aside(self) -> bool:
        """Whether all layers that are missing were set aside, so that waiting does not help."""
        return bool(self.lacking) and all(layer.state == "set aside" for layer in self.lacking)
