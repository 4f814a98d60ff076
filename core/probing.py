"""Probe dependencies one after the other, with a line for each: the commands `check` and `mirror check`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from core.errors import DockerTorrentsError
from core.http.tls import server_certificate, trusted_bundle
from core.http.url import parse_url
from core.output import print_line

_TLS_SECONDS = 5.0
_RENEW_DAYS = 14
_DAY = 24 * 3600


@dataclass(frozen=True)
class Skipped:
    """The result of a probe that had nothing to check, and why."""

    why: str


Probe = Callable[[], str | Skipped]
"""Returns a line on its result, or raises DockerTorrentsError."""


@dataclass
class CheckSummary:
    """The numbers of dependencies that were probed, that failed, and that were skipped."""

    checked: int = 0
    failed: int = 0
    skipped: int = 0

    def __str__(self) -> str:
        skipped = f", skipped {self.skipped}" if self.skipped else ""
        return f"checked {self.checked}, failed {self.failed}{skipped}"


def check(probes: Iterable[tuple[str, Probe]], report: Callable[[str], None] = print_line) -> CheckSummary:
    """Run all `probes`, and report each in a line, whatever the others raise."""
    summary = CheckSummary()
    for name, probe in probes:
        try:
            found = probe()
        except Exception as error:  # noqa: BLE001 - the other probes run in any case
            summary.checked += 1
            summary.failed += 1
            reason = " ".join(str(error).split())
            if not isinstance(error, (DockerTorrentsError, OSError)):
                reason = f"{type(error).__name__}: {reason}"
            report(f"failed  {name:<10} {reason}")
            continue
        if isinstance(found, Skipped):
            summary.skipped += 1
            report(f"skipped {name:<10} {found.why}")
        else:
            summary.checked += 1
            report(f"ok      {name:<10} {found}")
    return summary


def tls_probes(urls: Sequence[str], ca_file: Path | None, proxy: bool) -> Iterator[tuple[str, Probe]]:
    """Yield a probe of the certificate of each server that is used with TLS.

    Through a `proxy` the servers themselves cannot be reached.
    """
    servers = ("/".join(url.split("/")[:3]) for url in urls if url.lower().startswith("https://"))
    for server in dict.fromkeys(servers):
        yield "tls", partial(_check_certificate, server, ca_file, proxy)


def _check_certificate(server: str, ca_file: Path | None, proxy: bool) -> str | Skipped:
    target = parse_url(server)
    if proxy:
        return Skipped(f"{target.netloc} is reached through http.proxy")
    shown = server_certificate(target, trusted_bundle(ca_file), _TLS_SECONDS)
    days = int((shown.expires - time.time()) // _DAY)
    renew = ": renew it" if days < _RENEW_DAYS else ""
    return f"{target.netloc} has a certificate of {shown.issuer}, valid for {days} days{renew}"


def exists(path: Path) -> bool:
    """Return whether `path` exists; False if its folder may not be searched."""
    # Path.exists() raises PermissionError there.
    return os.path.exists(path)


def why_unusable(path: Path) -> str | None:
    """Return why `path`, which does not exist, cannot be created, or None."""
    above = next(parent for parent in path.absolute().parents if exists(parent))
    if not above.is_dir():
        return f"{above} is not a directory"
    return (
        None
        if os.access(above, os.W_OK | os.X_OK, effective_ids=True)
        else f"{above} is not writable by this user"
    )
