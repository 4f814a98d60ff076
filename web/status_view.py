"""The texts and figures of the status page. The templates call the functions of this module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from core.digest import Digest
from core.health import Health
from core.units import size, span
from sql.failures import FailureReason, RecentFailure
from sql.history import JobRun, Sample
from sql.queue_counts import MAX_COUNTED, QueueCounts
from sql.scopes import NEWEST, BusyRepository
from web.charts import meter

_HOUR = 3600
_DIGITS = 12
_WITHOUT_DATABASE = "Manifests go out without ids; notifications are refused, and sent again by the registry."


@dataclass(frozen=True)
class Overview:
    """The state of the database at `now` (Unix seconds). `samples` cover the longest chart."""

    now: int
    counts: QueueCounts
    samples: Sequence[Sample]
    runs: Sequence[JobRun]
    reasons: Sequence[FailureReason]
    failures: Sequence[RecentFailure]
    repositories: Sequence[BusyRepository]


@dataclass(frozen=True)
class HealthLine:
    """One line on the health of the service, with its problems. `style` is ok, warn or bad."""

    style: str
    summary: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tile:
    """A figure in large type."""

    label: str
    figure: str
    unit: str = ""
    more: str = ""
    style: str = ""


def health_line(health: Health, overview: Overview) -> HealthLine:
    """Return the line for the probes of `/healthz`, and for layers and manifests set aside."""
    failed = _failed(health)
    counts = overview.counts
    if counts.set_aside or counts.set_aside_manifests:
        failed = (*failed, _set_aside(counts))
    if health.status == "down":
        return HealthLine("bad", "Something is broken", failed)
    if failed:
        return HealthLine("warn", "Needs attention", failed)
    well = [name for name in health.parts if not name.startswith("job ")]
    jobs = len(health.parts) - len(well)
    return HealthLine(
        "ok", "Everything works", (f"{', '.join(well)} and {jobs} {'job' if jobs == 1 else 'jobs'} are well",)
    )


def database_down(reason: str, health: Health) -> HealthLine:
    """Return the line of a page without its database."""
    # Jobs are read from the database.
    others = [line for line in _failed(health) if not line.startswith(("database:", "jobs:"))]
    return HealthLine("bad", "The database cannot be read", (reason, _WITHOUT_DATABASE, *others))


def _failed(health: Health) -> tuple[str, ...]:
    return tuple(f"{name}: {part.reason}" for name, part in health.parts.items() if not part.ok)


def _set_aside(counts: QueueCounts) -> str:
    layers, manifests = counts.set_aside, counts.set_aside_manifests
    parts = []
    if layers:
        parts.append(f"{count(layers)} {'layer' if layers == 1 else 'layers'}")
    if manifests:
        parts.append(f"{count(manifests)} {'manifest' if manifests == 1 else 'manifests'}")
    return f"{' and '.join(parts)} set aside after failures, see below"


def tiles(overview: Overview) -> list[Tile]:
    """Return the figures at the head of the page."""
    now, counts = overview.now, overview.counts
    hour = [sample for sample in overview.samples if sample.minute > now - _HOUR]
    brewed, bytes_brewed = sum(one.brewed for one in hour), sum(one.bytes for one in hour)
    failed = sum(one.failed for one in hour)
    waiting = counts.waiting
    if waiting >= MAX_COUNTED and overview.samples:
        # The sample of the minute counts all of them.
        waiting = max(waiting, overview.samples[-1].waiting)
    oldest = counts.oldest_waiting
    figure, _, unit = size(bytes_brewed).partition(" ")
    delayed = f", {count(counts.delayed)} to be retried" if counts.delayed else ""
    return [
        Tile(
            "Layers waiting",
            f"{waiting:,}" if waiting > MAX_COUNTED else count(waiting),
            more=f"oldest {span(now - oldest)}{delayed}" if oldest is not None else f"none due now{delayed}",
        ),
        Tile("Being brewed", count(counts.locked), more="locked by brewers"),
        Tile("Brewed in the last hour", f"{brewed:,}", more="layers"),
        Tile("Read in the last hour", figure, unit, f"{size(bytes_brewed / _HOUR)}/s"),
        Tile(
            "Set aside",
            count(counts.set_aside),
            more=f"{failed:,} failed in the last hour",
            style="bad" if counts.set_aside else "",
        ),
    ]


def retry_command(reason: str) -> str:
    """Return the command for a shell; a quote within the reason is escaped for sh(1)."""
    return "docker_torrents queue retry --reason '" + reason.replace("'", "'\\''") + "'"


def coverage_meter(repository: BusyRepository) -> str:
    """Return the share of the repository's layers that is brewed, as a meter."""
    label = f"{repository.brewed} of {repository.layers} layers brewed"
    return meter(repository.brewed / repository.layers, label)


def clock(time: float) -> str:
    """Return a time as `2026-11-29 08:23:41 UTC`; as a number if no calendar has it."""
    try:
        return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError):
        # A row that was inserted by hand, in milliseconds for example.
        return f"{time:.0f}"


def percent(share: float) -> str:
    """Return a share as whole percent; only all is 100 %, only nothing is 0 %."""
    whole = round(100 * share)
    if whole == 100 and share < 1:
        whole = 99
    if whole == 0 and share > 0:
        whole = 1
    return f"{whole} %"


def short(digest: str) -> str:
    """Return the beginning of a digest, enough to distinguish layers."""
    return digest.removeprefix(Digest.PREFIX)[:_DIGITS] or digest


def count(number: int) -> str:
    """Return a count that may have ended at MAX_COUNTED."""
    return f"{number:,}+" if number >= MAX_COUNTED else f"{number:,}"


def took(seconds: float) -> str:
    """Return the duration of a job's run."""
    return f"{seconds:.1f} s" if seconds < 10 else span(seconds)


def ago(now: float, time: float) -> str:
    """Return the largest unit: `3 h ago`."""
    return f"{' '.join(span(now - time).split()[:2])} ago"


def until(now: float, time: float) -> str:
    """Return when a layer is retried."""
    return f"again in {span(time - now)}" if time > now else "retry is due"


NEWEST_NOTE = f"of the newest {NEWEST:,} layers"
