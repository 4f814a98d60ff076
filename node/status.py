"""The status of a download, and `mirror status` as text."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.digest import Digest

State = Literal["checking", "swarm", "http", "verified", "seeding", "failed"]

_UNITS = ("KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True, slots=True)
class DownloadStatus:
    """A download at one moment, for status and metrics. `done` and `size` are bytes.

    `origins` has the bytes by source; `error` is set if it failed.
    """

    digest: Digest
    scope: str
    size: int
    done: int
    state: State
    peers: int
    readers: int
    origins: dict[str, int]
    error: str | None = None


def status_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines for an answer of /v0/mirror/status."""
    yield f"registry: {status['registry']}"
    yield f"layers received: {_by_name(status['origins'], size=True)}"
    yield f"sent to other machines: {format_size(status['uploaded'])}"
    yield f"fallbacks to the registry: {_by_name(status['fallbacks'])}"
    cached = status["cache"]["layers"]
    pinned = sum(bool(layer["pinned"]) for layer in cached)
    yield f"cache: {len(cached)} layers, {format_size(status['cache']['bytes'])}, {pinned} pinned"
    active = [one for one in status["downloads"] if one["state"] != "seeding"]
    for one in active:
        yield f"download: {_download(one)}"
    yield f"downloads: {len(active)}, layers shared with peers: {len(status['downloads']) - len(active)}"


def _download(one: Mapping[str, Any]) -> str:
    percent = 100 * one["done"] // one["size"] if one["size"] else 100
    line = (
        f"{one['digest'][:19]}… {one['scope']} {one['state']} {percent} % of {format_size(one['size'])}, "
        f"peers {one['peers']}, from {_by_name(one['origins'], size=True)}"
    )
    return f"{line}, {one['error']}" if one["error"] else line


def _by_name(counts: Mapping[str, int], *, size: bool = False) -> str:
    shown = [f"{name} {format_size(count) if size else count}" for name, count in sorted(counts.items())]
    return ", ".join(shown) or "none"


def format_size(size: float) -> str:
    """Return a size such as `1.5 GiB`."""
    if size < 1024:
        return f"{size:.0f} B"
    exponent = min(int(math.log(size, 1024)), len(_UNITS))
    return f"{size / 1024**exponent:.1f} {_UNITS[exponent - 1]}"
