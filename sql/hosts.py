"""PostgreSQL hosts: parse them, resolve them, and probe which addresses answer."""

from __future__ import annotations

import os
import queue
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

DEFAULT_PORT = 5432


@dataclass(frozen=True, slots=True)
class Host:
    """A server: a name, an IP address, or the folder of a Unix socket (an absolute path)."""

    name: str
    port: int

    @property
    def is_socket(self) -> bool:
        """Return whether it is reached through a Unix socket."""
        return self.name.startswith("/")

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """An address to connect to: `family` and `sockaddr` as for socket.connect; `ip` is empty for a Unix
    socket.
    """

    family: socket.AddressFamily
    sockaddr: str | tuple[str, int] | tuple[str, int, int, int]
    ip: str


def parse_host(text: str, default_port: int = DEFAULT_PORT) -> Host:
    """Parse `name`, `name:port`, `::1`, `[::1]:port` or `/var/run/postgresql`.

    Raises ValueError.
    """
    text = text.strip()
    if text.startswith("/"):
        return Host(text, default_port)
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not a host: expected [address]:port")
        return Host(_check_name(name, text), _port(rest[1:], text) if rest else default_port)
    if text.count(":") > 1:  # a bare IPv6 address
        return Host(_check_name(text, text), default_port)
    name, colon, port = text.partition(":")
    return Host(_check_name(name, text), _port(port, text) if colon else default_port)


def resolve(host: Host, timeout: float) -> list[Address]:
    """Return the addresses of `host`, in the resolver's order.

    Raises OSError; TimeoutError after `timeout` seconds. The resolver has no timeout of its own, so names are
    looked up in a thread, which is abandoned if it takes too long.
    """
    if host.is_socket:
        return [Address(socket.AF_UNIX, f"{host.name}/.s.PGSQL.{host.port}", "")]
    try:
        return _look_up(host, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name
    answers: queue.SimpleQueue[list[Address] | OSError] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(_look_up(host, 0))
        except OSError as error:
            answers.put(error)

    threading.Thread(target=look_up, name=f"resolve {host}", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout)
    except queue.Empty:
        raise TimeoutError(f"its name was not resolved within {timeout:g} s") from None
    if isinstance(answer, OSError):
        raise answer
    return answer


def _look_up(host: Host, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM, flags=flags)
    addresses = []
    for family, _, _, _, sockaddr in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            ip, _ = socket.getnameinfo(sockaddr, socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
            addresses.append(Address(family, sockaddr, ip))  # type: ignore[arg-type]  # an IP one, as filtered
    return addresses


def _check_name(name: str, text: str) -> str:
    if not name or any(sign in name for sign in " ,/[]"):
        raise ValueError(f"{text!r} is not a host")
    return name


def _port(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and 0 < int(digits) < 65536):
        raise ValueError(f"{text!r} is not a host: expected a port from 1 to 65535")
    return int(digits)


_SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# `E` starts the error message of a server that is too busy or too old: libpq reports it better.
_ANSWERS = (b"S", b"N", b"E")


@dataclass(slots=True)
class _Probe:
    address: Address
    socket: socket.socket
    sent: bool = False


def answering(addresses: Sequence[Address], timeout: float, reasons: list[str]) -> Iterator[Address]:
    """Yield the addresses as they answer within `timeout` seconds. All are probed at the same time.

    Reasons for failures of others are appended to `reasons`. The time that the caller takes between two
    addresses counts too.
    """
    give_up = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        try:
            for address in addresses:
                try:
                    _start(address, selector)
                except OSError as error:
                    reasons.append(_reason(address, error))
            while selector.get_map():
                # Answers that have arrived count even when the time is up.
                ready = selector.select(max(0.0, give_up - time.monotonic()))
                if not ready:
                    break
                for key, _ in ready:
                    probe: _Probe = key.data
                    try:
                        if not _proceed(probe, selector):
                            continue
                    except OSError as error:
                        reasons.append(_reason(probe.address, error))
                        _close(probe, selector)
                        continue
                    _close(probe, selector)
                    yield probe.address
            silent = TimeoutError(f"no answer within {timeout:g} s")
            reasons += [_reason(key.data.address, silent) for key in selector.get_map().values()]
        finally:
            for key in list(selector.get_map().values()):
                _close(key.data, selector)


def _start(address: Address, selector: selectors.BaseSelector) -> None:
    connection = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        try:
            connection.connect(address.sockaddr)
        except BlockingIOError:
            # In progress. A Unix socket does not wait: there the server's backlog is full.
            if address.family == socket.AF_UNIX:
                raise
        selector.register(connection, selectors.EVENT_WRITE, _Probe(address, connection))
    except BaseException:
        connection.close()
        raise


def _proceed(probe: _Probe, selector: selectors.BaseSelector) -> bool:
    """Take the next step with a ready socket. Return whether the server has answered."""
    if not probe.sent:
        error = probe.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        probe.socket.send(_SSL_REQUEST)  # 8 bytes always fit into a new connection's buffer
        probe.sent = True
        selector.modify(probe.socket, selectors.EVENT_READ, probe)
        return False
    answer = probe.socket.recv(1)
    if answer not in _ANSWERS:
        raise ConnectionError(
            "it does not speak PostgreSQL's protocol" if answer else "it closed the connection"
        )
    return True


def _close(probe: _Probe, selector: selectors.BaseSelector) -> None:
    selector.unregister(probe.socket)
    probe.socket.close()


def _reason(address: Address, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{address.ip} {reason}" if address.ip else reason
