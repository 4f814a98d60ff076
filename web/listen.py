"""The sockets that the web app listens on."""

from __future__ import annotations

import errno
import socket

from core.errors import CannotListen

BACKLOG = 1024


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at every address that `host` stands for. Raises CannotListen.

    `::` and an empty host mean all addresses, those of IPv4 too, and IPv4 alone where the machine has
    no IPv6. Port 0 takes a free one, which is the same for every address.
    """
    try:
        return _listen_at_all(host, port)
    except OSError as error:
        raise CannotListen(host, port, error.strerror or str(error)) from error


def _listen_at_all(host: str, port: int) -> list[socket.socket]:
    if host in ("::", ""):
        try:
            return [_listen(socket.AF_INET6, ("::", port), both=True)]
        except OSError as error:
            if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                raise
            return [_listen(socket.AF_INET, ("0.0.0.0", port))]  # noqa: S104 - asked for: all addresses
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listening: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            taken = listening[0].getsockname()[1] if listening else address[1]
            listening.append(_listen(family, (address[0], taken, *address[2:])))
    except OSError:
        for opened in listening:
            opened.close()
        raise
    return listening


def _listen(family: int, address: tuple[object, ...], *, both: bool = False) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_STREAM)
    try:
        # The port of a server that has just stopped can be taken at once.
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
        opened.bind(address)
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError:
        opened.close()
        raise
    return opened
