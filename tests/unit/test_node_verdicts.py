"""How much the mirror remembers of the registry's verdicts."""

from __future__ import annotations

from core.digest import Digest
from node.verdicts import Verdicts
from tests.nodes import make_layer, make_torrent

COMMENT = b"7:comment1048576:" + bytes(1 << 20)


class Upstream:
    """A service that gives a torrent of a MiB for each of its layers."""

    def __init__(self, number: int) -> None:
        layers = [make_layer(100, seed) for seed in range(number)]
        self.torrents = {layer.digest: make_torrent(data) for data, layer in layers}
        self.asked: list[Digest] = []

    def torrent(self, scope: str, digest: Digest, authorization: str | None) -> bytes:
        self.asked.append(digest)
        return b"d" + COMMENT + self.torrents[digest][1:]


def test_verdicts_with_large_torrents_are_remembered_as_far_as_memory_allows() -> None:
    upstream = Upstream(40)
    verdicts = Verdicts(upstream)  # type: ignore[arg-type]
    layers = list(upstream.torrents)
    for digest in [*layers, layers[-1], layers[0]]:
        assert verdicts.judge("a", digest, None).size == 100
    assert upstream.asked == [*layers, layers[0]]
