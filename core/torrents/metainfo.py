"""A layer's .torrent (BEP 3, single file) and its rbtorrent id. Only this module imports torf.

The info dictionary depends only on the layer's bytes and on `private`, so every brewer of a layer gets the
same id. Trackers and web seeds are outside of it, and are added when the metainfo is served.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torf

from core.torrents.hashing import LayerHashes

ID_PREFIX = "rbtorrent:"

# Used for every layer, as creating one takes longer than the rest. Without `created by`, which differs
# between versions of the library.
_torrent = torf.Torrent(created_by=None)
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Metainfo:
    """A brewed layer's id (`rbtorrent:` and 40 hex digits) and its bencoded metainfo."""

    rbtorrent_id: str
    data: bytes


def build_metainfo(hex_digest: str, hashes: LayerHashes, private: bool) -> Metainfo:
    """Return the metainfo of the layer `hex_digest` with these hashes.

    Raises ValueError if `hashes` are inconsistent: no bytes, or the wrong number of pieces for the size.
    """
    with _errors_translated(), _lock:
        _torrent.metainfo["info"] = {
            "name": hex_digest,
            "length": hashes.size,
            "piece length": hashes.piece_length,
            "pieces": hashes.pieces,
        }
        if private:
            _torrent.metainfo["info"]["private"] = True
        # torf validates and encodes on each access to `infohash`: only one access, and no further validation.
        return Metainfo(ID_PREFIX + _torrent.infohash, _torrent.dump(validate=False))


def with_sources(data: bytes, trackers: list[str], web_seeds: list[str]) -> bytes:
    """Return `data` with these trackers (BEP 12, a tier each) and web seeds (BEP 19) and the same id.

    Raises ValueError if `data` is not metainfo, or a URL is invalid.
    """
    with _errors_translated():
        torrent = torf.Torrent.read_stream(data)
        torrent.trackers = trackers
        torrent.webseeds = web_seeds
        return torrent.dump(validate=False)


@contextmanager
def _errors_translated() -> Iterator[None]:
    """Turn torf's errors for invalid metainfo and URLs into ValueError."""
    try:
        yield
    except torf.URLError as error:
        raise ValueError(str(error)) from error
    # torf fails on some bytes that it should refuse: keys that are not text, pieces of length 0, a text of
    # more bytes than there is memory.
    except (torf.TorfError, TypeError, LookupError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"not metainfo: {error}") from error
