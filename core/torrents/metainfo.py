"""A layer's .torrent (BEP 3, single file) and its rbtorrent id. Only this module imports torf.

The info dictionary depends on the layer's bytes and on `private` alone, so all brewers of a layer get
one id. Trackers and web seeds stand outside of it and are put in when the metainfo is served.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torf

from core.torrents.hashing import LayerHashes

ID_PREFIX = "rbtorrent:"


@dataclass(frozen=True, slots=True)
class Metainfo:
    """A brewed layer's id (`rbtorrent:` and 40 hex digits) and its bencoded metainfo."""

    rbtorrent_id: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Info:
    """What a metainfo says of its layer; lengths are bytes, `name` is the layer's hex digest."""

    rbtorrent_id: str
    name: str
    length: int
    piece_length: int
    pieces: int
    private: bool


def build_metainfo(hex_digest: str, hashes: LayerHashes, private: bool) -> Metainfo:
    """The metainfo of the layer that `hashes` were taken of, named `hex_digest`.

    Raises ValueError if `hashes` do not fit together: no bytes, or not as many pieces as the size asks for.
    """
    # Without `created by`, which would tell one version of the library from the next.
    torrent = torf.Torrent(name=hex_digest, created_by=None)
    info = torrent.metainfo["info"]
    info["length"] = hashes.size
    info["piece length"] = hashes.piece_length
    info["pieces"] = hashes.pieces
    if private:
        info["private"] = True
    with _refusing_nonsense():
        # torf checks and encodes anew at each look at `infohash`: one look, and no second check.
        return Metainfo(ID_PREFIX + torrent.infohash, torrent.dump(validate=False))


def with_sources(data: bytes, trackers: list[str], web_seeds: list[str]) -> bytes:
    """`data` with its trackers (BEP 12, each a tier of its own) and web seeds (BEP 19) set to these.

    The id stays what it is. Raises ValueError if `data` is no metainfo, or a URL is none.
    """
    with _refusing_nonsense():
        torrent = torf.Torrent.read_stream(data)
        torrent.trackers = trackers
        torrent.webseeds = web_seeds
        return torrent.dump(validate=False)


def info_of(data: bytes) -> Info:
    """What `data` says of its layer. Raises ValueError if it is no metainfo."""
    with _refusing_nonsense():
        torrent = torf.Torrent.read_stream(data)
        info = torrent.metainfo["info"]
        return Info(
            rbtorrent_id=ID_PREFIX + torrent.infohash,
            name=info["name"],
            length=info["length"],
            piece_length=info["piece length"],
            pieces=len(info["pieces"]) // 20,
            private=bool(info.get("private", False)),
        )


@contextmanager
def _refusing_nonsense() -> Iterator[None]:
    """Turns what torf raises for bytes that are no metainfo, or URLs that are none, into ValueError."""
    try:
        yield
    except torf.URLError as error:
        raise ValueError(str(error)) from error
    # torf trips over some of the bytes that it should refuse: keys that are no text, pieces of length 0.
    except (torf.TorfError, TypeError, LookupError, ArithmeticError) as error:
        raise ValueError(f"no metainfo: {error}") from error
