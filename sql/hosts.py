"""PostgreSQL's hosts as the configuration writes them, and the addresses behind each."""

from __future__ import annotations

import queue
import socket
import threading
from dataclasses import dataclass

DEFAULT_PORT = 5432


@dataclass(frozen=True, slots=True)
class Host:
    """One server: a name, an IP address, or the folder of a Unix socket (an absolute path)."""

    name: str
    port: int

    @property
    def is_socket(self) -> bool:
        """Whether it is reached through a Unix socket."""
        return self.name.startswith("/")

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect: `family` and `sockaddr` as socket.connect takes them; `ip` is "" for a socket."""

    family: socket.AddressFamily
    sockaddr: str | tuple[str, int] | tuple[str, int, int, int]
    ip: str


def parse_host(text: str, default_port: int = DEFAULT_PORT) -> Host:
    """The Host that `text` means: `name`, `name:port`, `::1`, `[::1]:port`, `/var/run/postgresql`.

    Raises ValueError on anything else.
    """
    text = text.strip()
    if text.startswith("/"):
        return Host(text, default_port)
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not a host: expected [address]:port")
        return Host(_checked(name, text), _port(rest[1:], text) if rest else default_port)
    if text.count(":") > 1:  # a bare IPv6 address
        return Host(_checked(text, text), default_port)
    name, colon, port = text.partition(":")
    return Host(_checked(name, text), _port(port, text) if colon else default_port)


def resolve(host: Host, timeout: float) -> list[Address]:
    """The addresses of `host`, in the resolver's order. Raises OSError, TimeoutError after `timeout` seconds.

    The resolver knows no time-out of its own kind, so names are looked up in a thread, which is left
    behind if it takes too long.
    """
    if host.is_socket:
        return [Address(socket.AF_UNIX, f"{host.name}/.s.PGSQL.{host.port}", "")]
    try:
        return _look_up(host, socket.AI_NUMERICHOST)
    except socket.gaierror:
        pass  # a name, then
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


def _checked(name: str, text: str) -> str:
    if not name or any(sign in name for sign in " ,/[]"):
        raise ValueError(f"{text!r} is not a host")
    return name


def _port(digits: str, text: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and 0 < int(digits) < 65536):
        raise ValueError(f"{text!r} is not a host: expected a port from 1 to 65535")
    return int(digits)
