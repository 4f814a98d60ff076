"""The address of a caller, and access to the pages for operators: `/metrics` and the status page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import bottle

from core.config.config import Application
from core.networks import Address, Networks, is_within, parse_address
from web.errors import error


class StatusNetworks:
    """The networks of `application.status_networks`, as a limit on routes."""

    def __init__(self, application: Application) -> None:
        self._networks = application.status_networks
        self._trusted_proxies = application.trusted_proxies

    def limit(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """Return a route's callback that answers 403 to callers from other networks (a Bottle plugin)."""

        def limited(*args: Any, **kwargs: Any) -> Any:
            return callback(*args, **kwargs) if self.admits(bottle.request.environ) else _denied()

        return limited

    def admits(self, environ: Mapping[str, Any]) -> bool:
        """Return whether the caller of this request is in these networks."""
        try:
            connection = parse_address(environ.get("REMOTE_ADDR", ""))
            caller = caller_address(environ, self._trusted_proxies)
        except ValueError:
            return False
        if is_within(connection, self._trusted_proxies) and _hides_caller(environ):
            return False
        return is_within(caller, self._networks)


def caller_address(environ: Mapping[str, Any], trusted_proxies: Networks) -> Address:
    """Return the address of the caller: the connection's, or `X-Real-IP` of a trusted proxy.

    Raises ValueError if that is not an address.
    """
    address = parse_address(environ.get("REMOTE_ADDR", ""))
    header = environ.get("HTTP_X_REAL_IP")
    if header is not None and is_within(address, trusted_proxies):
        return parse_address(header)
    return address


def _hides_caller(environ: Mapping[str, Any]) -> bool:
    """Return whether a proxy has forwarded the request without the caller's address."""
    forwarded = "HTTP_X_FORWARDED_FOR" in environ or "HTTP_FORWARDED" in environ
    return forwarded and "HTTP_X_REAL_IP" not in environ


def _denied() -> bottle.HTTPResponse:
    return error(403, "DENIED", "this page is only for the networks in application.status_networks")
