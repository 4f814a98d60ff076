"""What a place that keeps metainfo has to offer: a directory, or an S3 bucket."""

from __future__ import annotations

from typing import Protocol

from core.digest import Digest


class MetainfoStore(Protocol):
    """Keeps one .torrent a layer, under the layer's digest. Both stores pass one conformance suite.

    Methods may be called from several threads and processes at once. A reader sees a whole metainfo,
    the old or the new one, never a part. When `put` has returned, the metainfo survives a crash: the
    layer's row may be marked brewed. All raise StoreFailed when the place itself does not work.
    """

    def put(self, digest: Digest, data: bytes) -> None:
        """Keep `data`, in the place of what was kept for this layer before."""
        ...

    def get(self, digest: Digest) -> bytes:
        """What was kept for this layer, byte for byte. Raises MetainfoMissing."""
        ...

    def delete(self, digest: Digest) -> None:
        """Forget this layer. It is no error if nothing was kept."""
        ...

    def check(self) -> str:
        """One line for the operator on the place, after a write, a read and a delete there."""
        ...
