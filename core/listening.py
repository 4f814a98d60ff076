"""The address of a server: resolving it, and checking that it is free."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress

from core.errors import CannotListen
from core.os_errors import os_reason

ALL_IPV4 = "0.0.0.0"  # noqa: S104  # configured by the user

_REMEDIES = {
    errno.EADDRINUSE: ": end the process that uses it (`ss -ltnp` shows it), or configure another port",
    errno.EADDRNOTAVAIL: ": configure an address of this machine",
}


def resolve_host(host: str, port: int) -> str:
    """Return the address to listen on; of a name the first IPv4 address, if any.

    `::` and an empty host mean all addresses, including IPv4, and only IPv4 on a machine without IPv6.
    Raises CannotListen.
    """
    if host in ("", "::"):
        return "::" if _has_ipv6() else ALL_IPV4
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotListen(host, port, os_reason(error)) from error
    found.sort(key=lambda one: one[0] != socket.AF_INET)
    return str(found[0][4][0])


def check_free(address: str, port: int) -> None:
    """Raise CannotListen unless a server can listen there.

    Workers share their port (SO_REUSEPORT), so a second server would start next to the first and get a part
    of its connections. A socket that does not share its port fails while another process listens.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # The port of a server that has just stopped is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Without `listen`: a client that waits for the server would take this socket for it.
            probe.bind((address, port))
    except OSError as error:
        raise cannot_listen(address, port, error) from error


def cannot_listen(address: str, port: int, error: OSError) -> CannotListen:
    """Return the error for a failed bind, with its remedy."""
    return CannotListen(address, port, os_reason(error) + _REMEDIES.get(error.errno or 0, ""))


def _has_ipv6() -> bool:
    with suppress(OSError), socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
        probe.bind(("::", 0))
        return True
    return False
