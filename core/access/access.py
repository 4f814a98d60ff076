"""The authority that decides who may pull: the registry, or Blackbox in front of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from core.access.blackbox import BlackboxAccess
from core.access.registry import RegistryAccess
from core.clients import http_client
from core.config.config import Config
from core.digest import Digest
from core.registry.client import RegistryClient


class Access(Protocol):
    """Authorises callers. Methods may be called from several threads at once."""

    def admit(self, headers: Mapping[str, str]) -> None:
        """Admit the request with these headers to the registry, or raise AccessDenied.

        `headers` finds `Authorization` and `X-Real-IP` by these names. The registry may still refuse an
        admitted caller.
        """
        ...

    def may_pull(self, scope: str, digest: Digest, authorization: str | None) -> None:
        """Check that the registry lets the holder of `authorization` pull this blob from this repository.

        Raises AccessDenied with the registry's status and challenge if it does not, or does not have
        the blob there; RemoteError if it cannot be reached.
        """
        ...


def choose_access(config: Config, registry: RegistryClient, clock: Callable[[], float]) -> Access:
    """Return the configured authority, without connecting. `clock` is monotonic."""
    access = RegistryAccess(registry)
    if config.authorization == "registry" or config.blackbox is None:
        return access
    http = http_client(config, config.blackbox.connect_timeout, config.blackbox.read_timeout)
    return BlackboxAccess(config.blackbox, http, access, clock)
