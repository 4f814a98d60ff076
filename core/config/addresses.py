"""Addresses in the configuration: URLs, registries, ports, networks."""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from core.http.url import parse_url

_HOST = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?\Z")


def check_url(value: str) -> str:
    """Return `value` if it is an HTTP URL. Raises ValueError."""
    if not value.startswith(("http://", "https://")):
        raise ValueError("expected a URL that begins with http:// or https://")
    check_no_user(value)
    parse_url(value)
    return value


def check_tracker(value: str) -> str:
    """Return `value` if it is an announce URL. Raises ValueError."""
    if not value.startswith(("http://", "https://", "udp://")):
        raise ValueError("expected a URL that begins with http://, https:// or udp://")
    return check_no_user(value)


def check_no_user(value: str) -> str:
    """Return `value` if it holds no user name or password. Raises ValueError, which does not show it."""
    rest = value.partition("://")[2]
    path = rest.partition("?")[0]
    # Without a path, the query may be the end of a password.
    if "@" in path or ("@" in rest and "/" not in path):
        raise ValueError(
            "a user name or password in a URL is not used: remove it (elsewhere, write %40 for @)"
        )
    return value


def check_password(value: str) -> str:
    """Return `value`, a URL, if its user name and password have @, / and # escaped. Raises ValueError.

    The message shows nothing of it.
    """
    rest = value.partition("://")[2]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    port = authority.rpartition(":")[2] if ":" in authority else ""
    path = rest[len(authority) :].partition("?")[0]
    # An @ after what looks like the host: that is a user and the beginning of a password.
    hidden = "@" in rest and (not path or (port and not port.isdigit()))
    later = "@" in path or ("@" not in authority and hidden)
    if authority.count("@") > 1 or (authority and later):
        raise ValueError(
            "a character in the user name or password is not escaped: "
            "write %40 for @, %2F for /, %23 for #, %3F for ?"
        )
    return value


def check_proxy(value: str) -> str:
    """Return `value` if it is the URL of a proxy, optionally with user and password. Raises ValueError."""
    if not value.startswith(("http://", "https://")):
        raise ValueError("expected a URL that begins with http:// or https://")
    parse_url(check_password(value))
    return value


def _registry_host(value: str) -> str:
    found = _HOST.match(value)
    if found is None or not 0 < int(found["port"] or 1) < 65536:
        raise ValueError("expected host or host:port, without http:// and without a path")
    return value


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("expected an IP address") from None


def _network(value: object) -> object:
    try:
        return value if isinstance(value, (IPv4Network, IPv6Network)) else ip_network(str(value))
    except ValueError:
        raise ValueError("expected a network such as 10.0.0.0/8, or an address") from None


Port = Annotated[int, Field(ge=1, le=65535)]
Url = Annotated[str, AfterValidator(check_url)]
RegistryHost = Annotated[str, AfterValidator(_registry_host)]
Address = Annotated[str, AfterValidator(_address)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
