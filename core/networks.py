"""IP addresses of callers, and networks."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Networks = Sequence[IPv4Network | IPv6Network]


def parse_address(text: str) -> Address:
    """Return the address. Raises ValueError."""
    address = ip_address(text.strip())
    # A dual-stack socket shows IPv4 addresses in this form.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def is_loopback(text: str) -> bool:
    """Return whether `text` is an address of this machine itself, such as 127.0.0.1."""
    try:
        return parse_address(text).is_loopback
    except ValueError:
        return False


def is_within(address: Address, networks: Networks) -> bool:
    """Return whether the address is in one of the networks."""
    return any(address in network for network in networks)
