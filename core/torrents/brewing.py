"""Brews one layer: reads it once, verifies it, and stores its metainfo."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from core.blobs.layer_reader import open_layer
from core.blobs.source import BlobSource
from core.digest import Digest
from core.errors import ConnectionCut, DigestMismatch, LayerEmpty, Refused, SizeMismatch
from core.layer import Layer
from core.torrents.hashing import INLINE_SIZE, LayerHashes, hash_layer
from core.torrents.metainfo import build_metainfo
from core.torrents.piece_length import piece_length
from core.torrents.store import MetainfoStore


@dataclass(frozen=True, slots=True)
class Brewed:
    """A layer whose metainfo is in the store: size in bytes, number of pieces, duration in seconds."""

    digest: Digest
    size: int
    rbtorrent_id: str
    pieces: int
    seconds: float


def brew_layer(
    source: BlobSource,
    store: MetainfoStore,
    layer: Layer,
    *,
    private: bool,
    connections: int,
    interrupted: Callable[[], bool],
) -> Brewed:
    """Brew `layer` from `source`, over at most `connections`, into `store`. It is idempotent.

    Nothing is stored unless the bytes match the digest and the size. Raises LayerEmpty, SizeMismatch,
    DigestMismatch; Interrupted soon after `interrupted` returns True; and the errors of source and store.
    """
    begun = time.monotonic()
    hashes = hash_verified(source, layer, connections=connections, interrupted=interrupted)
    metainfo = build_metainfo(layer.digest.hex, hashes, private)
    store.put(layer.digest, metainfo.data)
    seconds = time.monotonic() - begun
    return Brewed(layer.digest, hashes.size, metainfo.rbtorrent_id, hashes.piece_count, seconds)


def hash_verified(
    source: BlobSource, layer: Layer, *, connections: int, interrupted: Callable[[], bool]
) -> LayerHashes:
    """Read `layer` from `source`, and return its hashes if digest and size match.

    Raises what `brew_layer` raises, except for the errors of the store.
    """
    size = _size(source, layer)
    if size == 0:
        raise LayerEmpty("the layer is empty, there is nothing to share")
    try:
        with open_layer(source, layer, size, connections, interrupted=interrupted) as reader:
            hashes = hash_layer(reader, size, piece_length(size), interrupted=interrupted)
    except (ConnectionCut, Refused):
        # A blob shorter than its descriptor looks like one that was cut.
        if (there := source.size(layer)) != size:
            raise SizeMismatch(size, there) from None
        raise
    if hashes.sha256 != layer.digest.hex:
        raise DigestMismatch(str(layer.digest), Digest.PREFIX + hashes.sha256)
    return hashes


def _size(source: BlobSource, layer: Layer) -> int:
    """Return the layer's size in bytes: that of its descriptor, which the source must confirm.

    That of a small layer is not confirmed, to save a request: hashing detects a difference soon enough.
    """
    if layer.size is not None and layer.size < INLINE_SIZE:
        return layer.size
    size = source.size(layer)
    if layer.size is not None and layer.size != size:
        raise SizeMismatch(layer.size, size)
    return size
