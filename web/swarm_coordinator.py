"""The coordinator of a service, which grants leases: in this process, or in the parent of several workers.

If each worker granted leases by itself, the registry would send as many copies of a layer as there are
workers.
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
from core.swarm.lease_table import LeaseTable, Reply
from core.swarm.messages import Peer, SwarmRequest

log = logging.getLogger(__name__)


class Coordinator(Protocol):
    """The lease table as handlers use it. Thread-safe."""

    def call(self, hex_digits: str, peer: Peer, request: SwarmRequest) -> Reply:
        """Handle a node's call about a layer (LeaseTable.call). Raises Unavailable."""

    def announce_seeds(self, node: str, peer: Peer, layers: Sequence[tuple[str, int]]) -> float:
        """Handle an announcement of complete layers (LeaseTable.announce_seeds). Raises Unavailable."""


class LocalCoordinator:
    """The coordinator in this process."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._table = LeaseTable(Random())  # noqa: S311 - the choice of peers is no secret
        self._timer = timer
        self._lock = threading.Lock()

    def call(self, hex_digits: str, peer: Peer, request: SwarmRequest) -> Reply:
        with self._lock:
            return self._table.call(self._timer(), hex_digits, peer, request)

    def announce_seeds(self, node: str, peer: Peer, layers: Sequence[tuple[str, int]]) -> float:
        with self._lock:
            return self._table.announce_seeds(self._timer(), node, peer, layers)


@dataclass(frozen=True)
class CoordinatorAddress:
    """The address of the coordinator, passed to workers when they are started."""

    path: str
    key: bytes = field(repr=False)


class RemoteCoordinator:
    """The coordinator in another process of this machine."""

    def __init__(self, address: CoordinatorAddress) -> None:
        self._address = address
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def call(self, hex_digits: str, peer: Peer, request: SwarmRequest) -> Reply:
        reply: Reply = self._request("call", hex_digits, peer, request)
        return reply

    def announce_seeds(self, node: str, peer: Peer, layers: Sequence[tuple[str, int]]) -> float:
        interval: float = self._request("announce_seeds", node, peer, layers)
        return interval

    def _request(self, method: str, *arguments: object) -> Any:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = Client(self._address.path, "AF_UNIX", authkey=self._address.key)
                self._connection.send((method, arguments))
                return self._connection.recv()
            except (OSError, EOFError, AuthenticationError) as error:
                self._connection = None
                raise Unavailable("swarm coordinator", str(error) or "the connection was closed") from error


@contextmanager
def serve_coordinator(coordinator: Coordinator) -> Iterator[CoordinatorAddress]:
    """Let workers use `coordinator` for the length of the block."""
    key = secrets.token_bytes(32)
    stopping = threading.Event()
    # multiprocessing chooses a path in a private folder of this user.
    with Listener(family="AF_UNIX", authkey=key) as listener:
        address = CoordinatorAddress(str(listener.address), key)
        accepting = threading.Thread(
            target=_accept, args=(listener, coordinator, stopping), name="swarm coordinator", daemon=True
        )
        accepting.start()
        try:
            yield address
        finally:
            stopping.set()
            # A connection ends the wait in accept.
            Client(address.path, "AF_UNIX", authkey=key).close()
            accepting.join()


def _accept(listener: Listener, coordinator: Coordinator, stopping: threading.Event) -> None:
    while not stopping.is_set():
        try:
            connection = listener.accept()
        except (OSError, EOFError, AuthenticationError) as error:
            log.warning("connection to the swarm coordinator failed reason=%s", error)
            stopping.wait(0.1)
            continue
        threading.Thread(
            target=_answer, args=(connection, coordinator), name="swarm worker", daemon=True
        ).start()


def _answer(connection: Connection, coordinator: Coordinator) -> None:
    """Answer the calls of one worker until it closes the connection."""
    methods: dict[str, Callable[..., object]] = {
        "call": coordinator.call,
        "announce_seeds": coordinator.announce_seeds,
    }
    with connection:
        while True:
            try:
                method, arguments = connection.recv()
                connection.send(methods[method](*arguments))
            except (OSError, EOFError):
                return
