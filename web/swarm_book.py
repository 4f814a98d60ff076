"""The one lease book of a service: in this process, or in the parent of several workers.

If each worker had its own book, the registry would send as many copies of a layer as there are workers.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from random import Random
from typing import Any, Protocol

from core.errors import Unavailable
from core.swarm.leases import LeaseBook, Reply
from core.swarm.messages import Peer, SwarmRequest

log = logging.getLogger(__name__)


class Book(Protocol):
    """The interface of a book for handlers. Thread-safe."""

    def call(self, hex_digits: str, peer: Peer, request: SwarmRequest) -> Reply: ...

    def announce(self, node: str, peer: Peer, layers: Sequence[tuple[str, int]]) -> float: ...


class LocalBook:
    """The book in this process."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._book = LeaseBook(Random())  # noqa: S311 - the choice of peers is no secret
        self._timer = timer
        self._lock = threading.Lock()

    def call(self, hex_digits: str, peer: Peer, request: SwarmRequest) -> Reply:
        """Handle a node's call (LeaseBook.call)."""
        with self._lock:
            return self._book.call(self._timer(), hex_digits, peer, request)

    def announce(self, node: str, peer: Peer, layers: Sequence[tuple[str, int]]) -> float:
        """Handle a node's announcement of complete layers (LeaseBook.announce)."""
        with self._lock:
            return self._book.announce(self._timer(), node, peer, layers)


@dataclass(frozen=True)
class BookAddress:
    """The address of the book, passed to workers when they are started."""

    path: str
    key: bytes = field(repr=False)


class RemoteBook:
    """The book in another process of this machine."""

    def __init__(self, address: BookAddress) -> None:
        self._address = address
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def call(self, hex_digits: str, peer: Peer, request: SwarmRequest) -> Reply:
        """Handle a node's call (LeaseBook.call). Raises Unavailable."""
        reply: Reply = self._ask("call", hex_digits, peer, request)
        return reply

    def announce(self, node: str, peer: Peer, layers: Sequence[tuple[str, int]]) -> float:
        """Handle a node's announcement of complete layers (LeaseBook.announce). Raises Unavailable."""
        again: float = self._ask("announce", node, peer, layers)
        return again

    def _ask(self, method: str, *arguments: object) -> Any:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = Client(self._address.path, "AF_UNIX", authkey=self._address.key)
                self._connection.send((method, arguments))
                return self._connection.recv()
            except (OSError, EOFError, AuthenticationError) as error:
                self._connection = None
                raise Unavailable("swarm book", str(error) or "the connection was closed") from error


@contextmanager
def serve_book(book: Book) -> Iterator[BookAddress]:
    """Let workers use `book` for the length of the block."""
    key = secrets.token_bytes(32)
    stopping = threading.Event()
    # multiprocessing chooses a path in a private folder of this user.
    with Listener(family="AF_UNIX", authkey=key) as listener:
        address = BookAddress(str(listener.address), key)
        accepting = threading.Thread(
            target=_accept, args=(listener, book, stopping), name="swarm book", daemon=True
        )
        accepting.start()
        try:
            yield address
        finally:
            stopping.set()
            # A connection ends the wait in accept.
            Client(address.path, "AF_UNIX", authkey=key).close()
            accepting.join()


def _accept(listener: Listener, book: Book, stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            connection = listener.accept()
        except (OSError, EOFError, AuthenticationError) as error:
            log.warning("connection to the swarm service failed reason=%s", error)
            stopping.wait(0.1)
            continue
        threading.Thread(target=_answer, args=(connection, book), name="swarm worker", daemon=True).start()


def _answer(connection: Connection, book: Book) -> None:
    methods: dict[str, Callable[..., object]] = {"call": book.call, "announce": book.announce}
    with connection:
        while True:
            try:
                method, arguments = connection.recv()
                connection.send(methods[method](*arguments))
            except (OSError, EOFError):
                return
