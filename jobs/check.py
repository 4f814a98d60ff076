"""Probes each dependency and says in one line each whether it will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from core.errors import DockerTorrentsError
from sql.errors import SqlError

Probe = Callable[[], str]
"""Gives a line on what it found, or raises a DockerTorrentsError or SqlError."""


def check(probes: Iterable[tuple[str, Probe]], tell: Callable[[str], None] = print) -> bool:
    """Runs every one of `probes`, whatever the others give; whether all went well."""
    well = True
    for name, probe in probes:
        try:
            tell(f"ok      {name:<10} {probe()}")
        except (DockerTorrentsError, SqlError) as error:
            well = False
            tell(f"failed  {name:<10} {error}")
    return well
