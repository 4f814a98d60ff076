"""Checks layers whose ids an older service made: are they there, whole, and is the id BitTorrent's own?"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from core.blobs.source import BlobSource
from core.digest import Digest
from core.errors import (
    DigestMismatch,
    Interrupted,
    LayerEmpty,
    LayerError,
    MetainfoMissing,
    NotFound,
    RemoteError,
    SizeMismatch,
)
from core.layer import LayerRef
from core.torrents.brewing import brew_layer
from jobs.backfill_legacy import TakenOver
from jobs.progress import Progress

log = logging.getLogger(__name__)


@dataclass
class VerifySummary:
    """How many layers were `sound`, that is whole and their digest's; `missing` at the source; `damaged`;
    not `read`able now. `own` is how many of the sound ones have the id that this service would give them.
    """

    sound: int = 0
    missing: int = 0
    damaged: int = 0
    unread: int = 0
    own: int = 0
    interrupted: bool = False

    @property
    def failed(self) -> int:
        """Layers that were not found sound, for the exit status."""
        return self.missing + self.damaged + self.unread

    def __str__(self) -> str:
        return (
            f"verified {self.sound + self.failed} layers: sound {self.sound}, missing {self.missing}, "
            f"damaged {self.damaged}, unread {self.unread}; ids as BitTorrent has them {self.own}, "
            f"made otherwise {self.sound - self.own}{', interrupted' if self.interrupted else ''}"
        )


def verify_ids(
    source: BlobSource,
    layers: Iterable[TakenOver],
    *,
    private: bool,
    connections: int,
    stop: threading.Event,
) -> VerifySummary:
    """Reads each layer to its end and hashes it. Nothing is kept, and nothing is written about it.

    The older service may have computed its ids in a way of its own, so that one that differs from ours says
    nothing against it; it only means that no BitTorrent client knows the layer by it.
    """
    summary = VerifySummary()
    layers = list(layers)
    with Progress("verify", "layers", total=len(layers)) as progress:
        for layer in layers:
            try:
                brewed = brew_layer(
                    source,
                    _Nowhere(),
                    LayerRef(layer.digest, size=layer.size),
                    private=private,
                    connections=connections,
                    interrupted=stop.is_set,
                )
            except Interrupted:
                summary.interrupted = True
                break
            except (RemoteError, LayerError) as error:
                _count(summary, error)
                log.warning("layer not sound digest=%s reason=%s", layer.digest, error)
            else:
                summary.sound += 1
                summary.own += brewed.rbtorrent_id == layer.rbtorrent_id
            progress.step()
    return summary


def _count(summary: VerifySummary, error: RemoteError | LayerError) -> None:
    if isinstance(error, NotFound):
        summary.missing += 1
    elif isinstance(error, DigestMismatch | SizeMismatch | LayerEmpty):
        summary.damaged += 1
    else:
        summary.unread += 1


class _Nowhere:
    """A metainfo store that keeps nothing."""

    def put(self, digest: Digest, data: bytes) -> None:
        """Forgets it."""

    def get(self, digest: Digest) -> bytes:
        """Never has it."""
        raise MetainfoMissing(str(digest))

    def delete(self, digest: Digest) -> None:
        """Has nothing to delete."""

    def check(self) -> str:
        """A line on a place that is none."""
        return "nothing is kept"
