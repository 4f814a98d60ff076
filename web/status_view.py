"""The status page's texts and figures for its templates, from the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from core.digest import Digest
from core.health import Health
from core.units import size, span
from sql.failures import RecentFailure
from sql.history import JobRun, Sample
from sql.overview import MOST_COUNTED, NEWEST, BusyRepository, FailureReason, QueueCounts
from sql.status import failure_kind
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


def _figure_and_unit(number: int) -> tuple[str, str]:
    figure, _, unit = size(number).partition(" ")
    return figure, unit


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
    if waiting >= MOST_COUNTED and overview.samples:
        # The sample of the minute counts all of them.
        waiting = max(waiting, overview.samples[-1].waiting)
    oldest = counts.oldest_waiting
    figure, unit = _figure_and_unit(bytes_brewed)
    delayed = f", {count(counts.delayed)} to be retried" if counts.delayed else ""
    return [
        Tile(
            "Layers waiting",
            f"{waiting:,}" if waiting > MOST_COUNTED else count(waiting),
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


@dataclass(frozen=True)
class FailureRow:
    """A layer that failed, for the table of the latest."""

    digest: str
    short: str
    ago: str
    at: str
    scope: str
    size: str
    attempts: int
    then: str
    style: str
    reason: str


def failure_rows(overview: Overview) -> list[FailureRow]:
    """Return the latest failures."""
    now = overview.now
    return [
        FailureRow(
            failure.digest,
            short(failure.digest),
            _ago(now, failure.failed),
            clock(failure.failed),
            failure.scope or "repository unknown",
            "size unknown" if failure.size is None else size(failure.size),
            failure.attempts,
            "set aside" if failure.next_try is None else _until(now, failure.next_try),
            "bad" if failure.next_try is None else "warn",
            failure_kind(failure.reason),
        )
        for failure in overview.failures
    ]


@dataclass(frozen=True)
class ReasonRow:
    """A reason of failures, and the command that retries the layers set aside for it."""

    reason: str
    set_aside: str
    retried: str
    command: str


def reason_rows(overview: Overview) -> list[ReasonRow]:
    """Return the reasons of failures, the most frequent first."""
    return [
        ReasonRow(
            one.reason,
            count(one.set_aside),
            count(one.retried),
            retry_command(one.reason) if one.set_aside else "",
        )
        for one in overview.reasons
    ]


def retry_command(reason: str) -> str:
    """Return the command for a shell; a quote within the reason is escaped for sh(1)."""
    return "docker_torrents queue retry --reason '" + reason.replace("'", "'\\''") + "'"


@dataclass(frozen=True)
class RepositoryRow:
    """A busy repository and its coverage."""

    scope: str
    layers: str
    size: str
    percent: str
    meter: str


def repository_rows(overview: Overview) -> list[RepositoryRow]:
    """Return the busiest repositories."""
    rows = []
    for one in overview.repositories:
        share = one.brewed / one.layers
        label = f"{one.brewed} of {one.layers} layers brewed"
        rows.append(
            RepositoryRow(
                one.scope,
                f"{one.brewed} of {one.layers}",
                size(one.size),
                percent(share),
                meter(share, label),
            )
        )
    return rows


@dataclass(frozen=True)
class JobRow:
    """The last run of a job."""

    job: str
    ago: str
    at: str
    took: str
    outcome: str
    style: str
    did: str


def job_rows(overview: Overview) -> list[JobRow]:
    """Return the last run of each job."""
    styles = {"done": "ok", "failed": "bad", "running": ""}
    return [
        JobRow(
            run.job,
            _ago(overview.now, run.started),
            clock(run.started),
            f"{run.seconds:.1f} s" if run.seconds < 10 else span(run.seconds),
            run.outcome,
            styles.get(run.outcome, ""),
            run.reason or "",
        )
        for run in overview.runs
    ]


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
    """Return a count that may have ended at MOST_COUNTED."""
    return f"{number:,}+" if number >= MOST_COUNTED else f"{number:,}"


def _ago(now: float, time: float) -> str:
    """Return the largest unit: `3 h ago`."""
    return f"{' '.join(span(now - time).split()[:2])} ago"


def _until(now: float, time: float) -> str:
    return f"again in {span(time - now)}" if time > now else "retry is due"


NEWEST_NOTE = f"of the newest {NEWEST:,} layers"
