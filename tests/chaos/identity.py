"""What a layer's id must be, computed without any code of the service (BEP 3, and DESIGN's piece length)."""

from __future__ import annotations

import hashlib
from typing import Any

SMALLEST_PIECE = 64 * 1024
LARGEST_PIECE = 16 * 1024 * 1024
MAX_PIECES = 1024


def rbtorrent_id(content: bytes) -> str:
    """Return the id of a layer of these bytes."""
    return f"rbtorrent:{info_hash(content)}"


def info_hash(content: bytes) -> str:
    """Return the hex digits of the SHA-1 of the bencoded info dictionary."""
    return hashlib.sha1(_bencode(_info(content))).hexdigest()


def info_of(torrent: bytes) -> bytes:
    """Return the info dictionary in a .torrent, byte for byte. Raises ValueError if there is none."""
    if not torrent.startswith(b"d"):
        raise ValueError("not a dictionary")
    at = 1
    while torrent[at : at + 1] != b"e":
        key, value = at, _after(torrent, at)
        at = _after(torrent, value)
        if torrent[key:value] == b"4:info":
            return torrent[value:at]
    raise ValueError("no info dictionary")


def _info(content: bytes) -> dict[str, Any]:
    piece = SMALLEST_PIECE
    while piece < LARGEST_PIECE and piece * MAX_PIECES < len(content):
        piece *= 2
    pieces = [hashlib.sha1(content[at : at + piece]).digest() for at in range(0, len(content), piece)]
    return {
        "length": len(content),
        "name": hashlib.sha256(content).hexdigest(),
        "piece length": piece,
        "pieces": b"".join(pieces),
        "private": 1,
    }


def _bencode(value: Any) -> bytes:
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    return b"d" + b"".join(_bencode(key) + _bencode(value[key]) for key in sorted(value)) + b"e"


def _after(data: bytes, at: int) -> int:
    """Return where the bencoded value at `at` ends."""
    kind = data[at : at + 1]
    if kind == b"i":
        return data.index(b"e", at) + 1
    if kind in (b"l", b"d"):
        at += 1
        while data[at : at + 1] != b"e":
            at = _after(data, at)
        return at + 1
    colon = data.index(b":", at)
    return colon + 1 + int(data[at:colon])
