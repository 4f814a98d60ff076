"""Constants of the product that tests set: in this process, in a served app, in the program."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

AMPLE_WAITS: Mapping[str, Any] = {
    "core.queue_gauges.WAIT_SECONDS": 60.0,
    "web.event_writer.WAIT_SECONDS": 60.0,
    "web.id_lookup.WAIT_SECONDS": 60.0,
    "web.role_cache.WAIT_SECONDS": 60.0,
}
"""How long requests wait for the database: the machine may be busy. Tests of a hung database set less."""

AMPLE_WAITS_OF_MIRRORS: Mapping[str, Any] = {
    "node.fallback.STALLED_SECONDS": 120.0,
    "node.upstream.TORRENT_SECONDS": 60.0,
}
"""How long a mirror waits for the swarm and the service before it reads from the registry."""


def set_constants(constants: Mapping[str, Any]) -> None:
    """Set these constants (`module.NAME`) in this process. Raises AttributeError if there is no such constant."""
    for name, value in constants.items():
        module, _, constant = name.rpartition(".")
        imported = import_module(module)
        getattr(imported, constant)
        setattr(imported, constant, value)
