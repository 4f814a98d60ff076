"""Which addresses of a PostgreSQL host answer at all, before libpq is let at them.

A time-out may be a tenth of a second. That is plenty for a living host to say something, but not for a busy
one to let somebody in; and libpq rounds a time-out below 2 s up to 2 s. So a host is asked for TLS first: an
SSLRequest is 8 bytes, and PostgreSQL and PgBouncer answer it with one, `S` or `N`, before they know who asks
(PostgreSQL's manual, "SSL Session Encryption" in the chapter on the protocol). A host that is off, cut off,
or hung with its kernel still accepting connections gives no such byte.
"""

from __future__ import annotations

import os
import selectors
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sql.hosts import Address

_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# `E` begins the error message of a server too busy, or too old, to talk: libpq says it better.
_ANSWERS = (b"S", b"N", b"E")


@dataclass(slots=True)
class _Attempt:
    address: Address
    socket: socket.socket
    asked: bool = False


def answering(addresses: Sequence[Address], timeout: float, reasons: list[str]) -> Iterator[Address]:
    """The addresses that answer within `timeout` seconds, as they do; all are asked at the same time.

    Why one does not is appended to `reasons`. Time that the caller takes between two of them counts too.
    """
    give_up = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        try:
            for address in addresses:
                try:
                    _begin(address, selector)
                except OSError as error:
                    reasons.append(_reason(address, error))
            while selector.get_map():
                # Even when time is up, what has come in meanwhile is taken.
                ready = selector.select(max(0.0, give_up - time.monotonic()))
                if not ready:
                    break
                for key, _ in ready:
                    attempt: _Attempt = key.data
                    try:
                        if not _go_on(attempt, selector):
                            continue
                    except OSError as error:
                        reasons.append(_reason(attempt.address, error))
                        _end(attempt, selector)
                        continue
                    _end(attempt, selector)
                    yield attempt.address
            silent = TimeoutError(f"no answer within {timeout:g} s")
            reasons += [_reason(key.data.address, silent) for key in selector.get_map().values()]
        finally:
            for key in list(selector.get_map().values()):
                _end(key.data, selector)


def _begin(address: Address, selector: selectors.BaseSelector) -> None:
    connection = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        try:
            connection.connect(address.sockaddr)
        except BlockingIOError:
            # On its way; but a Unix socket does not wait: the server's backlog is full.
            if address.family == socket.AF_UNIX:
                raise
        selector.register(connection, selectors.EVENT_WRITE, _Attempt(address, connection))
    except BaseException:
        connection.close()
        raise


def _go_on(attempt: _Attempt, selector: selectors.BaseSelector) -> bool:
    """Take the next step with a socket that is ready. Returns whether the server has answered."""
    if not attempt.asked:
        error = attempt.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        attempt.socket.send(_SSL_REQUEST)  # 8 bytes always fit into a new connection's buffer
        attempt.asked = True
        selector.modify(attempt.socket, selectors.EVENT_READ, attempt)
        return False
    answer = attempt.socket.recv(1)
    if answer not in _ANSWERS:
        raise ConnectionError("it does not speak PostgreSQL's protocol" if answer else "it hung up")
    return True


def _end(attempt: _Attempt, selector: selectors.BaseSelector) -> None:
    selector.unregister(attempt.socket)
    attempt.socket.close()


def _reason(address: Address, error: OSError) -> str:
    said = error.strerror or str(error)
    return f"{address.ip} {said}" if address.ip else said
