"""Nodes for tests: cache, session and downloads in this process, and a registry that is a bytes object."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import libtorrent

from core.blobs.source import BlobReader
from core.digest import Digest
from core.http.client import HttpClient
from node.cache import Cache
from node.downloads import Downloads, Reader
from node.origin import PulledLayer
from node.session import Session
from node.status import DownloadStatus
from tests.servers.waiting import comes_true

PIECE = 64 * 1024


def make_layer(size: int, seed: int = 1) -> tuple[bytes, PulledLayer]:
    """Return `size` random bytes and their description."""
    data = random.Random(seed).randbytes(size)
    return data, PulledLayer(Digest(hashlib.sha256(data).hexdigest()), "tests/layer", size)


def make_torrent(
    data: bytes,
    web_seeds: Sequence[str] = (),
    *,
    piece_length: int = PIECE,
    name: str | None = None,
    tracker: str | None = None,
) -> bytes:
    """Return the layer's .torrent, which is private; `name` is its digest by default."""
    pieces = b"".join(
        hashlib.sha1(data[start : start + piece_length]).digest()
        for start in range(0, len(data), piece_length)
    )
    info = {
        b"length": len(data),
        b"name": (name or hashlib.sha256(data).hexdigest()).encode(),
        b"piece length": piece_length,
        b"pieces": pieces,
        b"private": 1,
    }
    torrent = {b"info": info, b"url-list": [url.encode() for url in web_seeds]}
    if tracker is not None:
        torrent[b"announce"] = tracker.encode()
    return libtorrent.bencode(torrent)


@dataclass(eq=False)
class BytesBody(BlobReader):
    data: memoryview
    limit: threading.Event | None = None
    closed: threading.Event = field(default_factory=threading.Event)

    def readinto(self, buffer: memoryview, /) -> int:
        count = min(len(buffer), len(self.data), 64 * 1024)
        buffer[:count] = self.data[:count]
        self.data = self.data[count:]
        return count

    def close(self) -> None:
        self.closed.set()


@dataclass
class BytesOrigin:
    """A registry that has one layer; `metainfo` is its torrent, `error` is raised instead of opening it."""

    data: bytes
    metainfo: bytes | None = None
    error: Exception | None = None
    opened: list[tuple[int, int]] = field(default_factory=list)
    requested: int = 0
    body: Callable[[memoryview], BytesBody] = BytesBody

    def torrent(self) -> bytes | None:
        self.requested += 1
        return self.metainfo

    def open(self, offset: int, length: int) -> BytesBody:
        self.opened.append((offset, length))
        if self.error is not None:
            raise self.error
        return self.body(memoryview(self.data)[offset : offset + length])

    @property
    def sent(self) -> int:
        """The number of requested bytes."""
        return sum(length for _, length in self.opened)


@dataclass
class Node:
    """A node with its own address."""

    folder: Path
    cache: Cache
    session: Session
    downloads: Downloads


@contextmanager
def start_node(
    folder: Path,
    *,
    listen: str = "127.0.0.1:0",
    cache_size: int = 1 << 30,
    min_size: int = 0,
    peers: Sequence[IPv4Network] = (),
    read_timeout: float = 120.0,
    time_limit: float = 120.0,
) -> Iterator[Node]:
    """Run a node whose cache is in `folder`."""
    cache = Cache(folder, cache_size, 0)
    session = Session(listen, peers=peers)
    with HttpClient(60.0, read_timeout) as http:
        downloads = Downloads(cache, session, http, min_size=min_size, time_limit=time_limit)
        try:
            yield Node(folder, cache, session, downloads)
        finally:
            downloads.close()
            session.close()
            cache.close()


def read_all(reader: Reader, *, timeout: float = 120.0) -> bytes:
    """Read the layer from its beginning to its end."""
    parts, offset = [], 0
    while data := reader.read(offset, 100_000, timeout):
        parts.append(data)
        offset += len(data)
    return b"".join(parts)


def wait_for_end(node: Node, layer: PulledLayer) -> str | None:
    """Wait until the layer's download is over. Return why it failed, None if it did not."""

    def shown() -> list[DownloadStatus]:
        return [status for status in node.downloads.status() if status.digest == layer.digest]

    assert comes_true(lambda: all(one.state in ("verified", "seeding", "failed") for one in shown()), 120)
    return next((one.error for one in shown() if one.state == "failed"), None)


def pull(node: Node, layer: PulledLayer, origin: BytesOrigin) -> bytes:
    """Read a layer and wait until it is cached."""
    with node.downloads.open(layer, origin) as reader:
        data = read_all(reader)
    assert wait_for_end(node, layer) is None
    return data


@contextmanager
def in_thread(target: Callable[[], object]) -> Iterator[list[object]]:
    """Run `target` in a thread during the block; its result is appended to the list."""
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(target()))
    thread.start()
    yield results
    thread.join(120)
    assert not thread.is_alive()


def pull_together(nodes: Sequence[Node], layer: PulledLayer, origins: Sequence[BytesOrigin]) -> list[object]:
    """Pull a layer on all nodes at once."""
    results: list[list[object]] = []
    with ExitStack() as stack:
        for node, origin in zip(nodes, origins, strict=True):
            results.append(
                stack.enter_context(in_thread(lambda node=node, origin=origin: pull(node, layer, origin)))
            )
    return [result[0] for result in results]
