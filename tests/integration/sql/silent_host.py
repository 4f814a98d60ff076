"""Hosts that are dead without refusing connections."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def hung_host(host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """`host:port` of a host that accepts connections and never answers."""
    with socket.create_server((host, port), backlog=100) as listener:
        yield f"{host}:{listener.getsockname()[1]}"


@contextmanager
def black_hole() -> Iterator[str]:
    """`host:port` where connecting gets no answer, as behind a firewall that drops packets.

    A listener whose backlog is full: Linux drops further SYNs.
    """
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect(address)
            except TimeoutError:
                break
        yield f"127.0.0.1:{address[1]}"
