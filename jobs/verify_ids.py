"""Verify layers whose ids come from an older service: whether they are intact, and the kind of ids."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass

from core.blobs.source import BlobSource
from core.errors import Interrupted, LayerError, NotFound, RemoteError
from core.layer import Layer
from core.torrents.brewing import hash_verified
from core.torrents.metainfo import build_metainfo
from jobs.backfill_legacy import TakenOver
from jobs.progress import Progress

log = logging.getLogger(__name__)


@dataclass
class VerifySummary:
    """How many layers are `sound` (they match their digest), `missing`, `damaged`, or could not be read
    (`unread`). `own` counts the sound ones whose id is the one that this service would compute.
    """

    sound: int = 0
    missing: int = 0
    damaged: int = 0
    unread: int = 0
    own: int = 0
    interrupted: bool = False

    @property
    def failed(self) -> int:
        """Layers that are not known to be sound, for the exit status."""
        return self.missing + self.damaged + self.unread

    def __str__(self) -> str:
        return (
            f"verified {self.sound + self.failed} layers: sound {self.sound}, missing {self.missing}, "
            f"damaged {self.damaged}, unread {self.unread}; BitTorrent ids {self.own}, "
            f"other ids {self.sound - self.own}{', interrupted' if self.interrupted else ''}"
        )


def verify_ids(
    source: BlobSource,
    layers: Iterable[TakenOver],
    *,
    private: bool,
    connections: int,
    stop: threading.Event,
) -> VerifySummary:
    """Read and hash each layer. Nothing is stored.

    The older service may have computed its ids differently: an id that differs from ours is not wrong, but
    BitTorrent clients cannot use it.
    """
    summary = VerifySummary()
    layers = list(layers)
    with Progress("verify", "layers", total=len(layers)) as progress:
        for layer in layers:
            try:
                wanted = Layer(layer.digest, size=layer.size)
                hashes = hash_verified(source, wanted, connections=connections, interrupted=stop.is_set)
            except Interrupted:
                summary.interrupted = True
                break
            except (RemoteError, LayerError) as error:
                _count(summary, error)
                log.warning("layer not verified digest=%s reason=%s", layer.digest, error)
            else:
                summary.sound += 1
                own = build_metainfo(layer.digest.hex, hashes, private)
                summary.own += own.rbtorrent_id == layer.rbtorrent_id
            progress.step()
    return summary


def _count(summary: VerifySummary, error: RemoteError | LayerError) -> None:
    if isinstance(error, NotFound):
        summary.missing += 1
    elif isinstance(error, LayerError):
        summary.damaged += 1
    else:
        summary.unread += 1
