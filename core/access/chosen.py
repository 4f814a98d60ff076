"""Who judges callers, as the configuration has it."""

from __future__ import annotations

from collections.abc import Callable

from core.access.access import Access
from core.access.blackbox import BlackboxAccess
from core.access.registry import RegistryAccess
from core.clients import http_client
from core.config.config import Config
from core.registry.client import RegistryClient


def choose_access(config: Config, registry: RegistryClient, clock: Callable[[], float]) -> Access:
    """The registry alone, or Blackbox before it. `clock` gives seconds, and never goes back; nothing is
    connected yet.
    """
    access = RegistryAccess(registry)
    if config.authorization == "registry" or config.blackbox is None:
        return access
    http = http_client(config, config.blackbox.connect_timeout, config.blackbox.read_timeout)
    return BlackboxAccess(config.blackbox, http, access, clock)
