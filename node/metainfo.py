"""The .torrent of a layer, parsed for a node."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import libtorrent

from core.digest import Digest

_HASH = 20
_MAX_PIECE = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Metainfo:
    """The torrent of one layer.

    `data` is the .torrent without its web seeds, for libtorrent; the node reads from `web_seeds` itself.
    `hashes` are the pieces' SHA-1, one after the other.
    """

    data: bytes
    size: int
    piece_length: int
    hashes: bytes
    web_seeds: tuple[str, ...]

    @property
    def pieces(self) -> int:
        """The number of pieces."""
        return len(self.hashes) // _HASH

    def span(self, piece: int) -> tuple[int, int]:
        """Return the offset of the piece's first byte and the offset after its last one."""
        return piece * self.piece_length, min((piece + 1) * self.piece_length, self.size)

    def matches(self, piece: int, data: bytes | bytearray | memoryview) -> bool:
        """Return whether `data` has the hash of `piece`."""
        expected = self.hashes[piece * _HASH : (piece + 1) * _HASH]
        return hashlib.sha1(data, usedforsecurity=False).digest() == expected

    def with_web_seeds(self, web_seeds: tuple[str, ...]) -> Metainfo:
        """Return the same torrent with other web seeds."""
        return replace(self, web_seeds=web_seeds)

    def encode(self) -> bytes:
        """Return the .torrent, web seeds included."""
        torrent: Any = libtorrent.bdecode(self.data)
        torrent[b"url-list"] = [url.encode() for url in self.web_seeds]
        return bytes(libtorrent.bencode(torrent))


def parse_metainfo(data: bytes, digest: Digest, size: int | None = None) -> Metainfo:
    """Read a .torrent. Raises ValueError if it is not that of the layer, of `size` bytes if that is known."""
    try:
        torrent: Any = libtorrent.bdecode(data)
        info = torrent[b"info"]
        name, length, hashes = info[b"name"], info[b"length"], info[b"pieces"]
        piece_length = info[b"piece length"]
        seeds = torrent.pop(b"url-list", [])
        web_seeds = [url.decode() for url in ([seeds] if isinstance(seeds, bytes) else seeds) if url]
        torrent.pop(b"httpseeds", None)
        bare = bytes(libtorrent.bencode(torrent))
        pieces = -(-length // piece_length)
    except (RuntimeError, LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"the torrent is malformed: {error}") from None
    if name != digest.hex.encode() or size not in (None, length):
        raise ValueError("the torrent belongs to another layer")
    if not (0 < piece_length <= _MAX_PIECE and isinstance(hashes, bytes)):
        raise ValueError("the torrent's piece length or its hashes are invalid")
    if not 0 < len(hashes) == pieces * _HASH:
        raise ValueError("the torrent's pieces do not match its length")
    return Metainfo(bare, length, piece_length, hashes, tuple(web_seeds))
