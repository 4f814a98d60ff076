"""The state of the queue, as lines of text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from core.units import span
from sql.status import FailedLayer, QueueStatus

_SHOWN_LOCKS = 20
_SHOWN_FAILED = 3
_SLOW = 0.1
"""Below this number of layers a second only the number of the last hour is shown."""


def status_lines(status: QueueStatus, *, now: int) -> Iterator[str]:
    """Yield lines on waiting layers, locks and their brewers, failures and their reasons, and the pace."""
    oldest = f", oldest {span(now - status.oldest_waiting)} ago" if status.oldest_waiting else ""
    yield f"waiting    {status.waiting_count} ({status.delayed} delayed after a failure{oldest})"
    for priority, layers in status.waiting.items():
        if layers:
            yield f"  {layers:>9} {priority.name.lower()}"
    for kind, delayed in status.delayed_by_reason.items():
        first, last = span(delayed.first_try - now), span(delayed.last_try - now)
        yield f"  {delayed.layers:>9} retried in {first}{'' if first == last else f' to {last}'}: {kind}"
    yield f"locked     {status.locked_count}"
    for lock in status.locked[:_SHOWN_LOCKS]:
        held = f"{span(now - lock.since)}, renewed {span(now - lock.renewed)} ago"
        yield f"  {lock.digest} by {lock.brewer or 'an unknown brewer'} for {held}"
    if status.locked_count > _SHOWN_LOCKS:
        yield f"  ... and {status.locked_count - _SHOWN_LOCKS} more"
    yield f"set aside  {status.set_aside_count}"
    examples: dict[str, list[FailedLayer]] = {}
    for layer in status.set_aside_layers:
        examples.setdefault(layer.kind, []).append(layer)
    for reason, layers in status.set_aside.items():
        yield f"  {layers:>9} {reason}"
        shown = examples.get(reason, [])[:_SHOWN_FAILED]
        yield from (f"            {_failed(layer)}" for layer in shown)
        if layers > len(shown):
            yield f"            ... and {layers - len(shown)} more (--json lists them)"
    manifests = status.manifests
    yield f"manifests  {manifests.waiting} to resolve, {manifests.set_aside_count} set aside"
    for reason, number in manifests.set_aside.items():
        yield f"  {number:>9} {reason}"
    pace = f" ({status.per_second:.1f} a second)" if status.per_second >= _SLOW else ""
    yield f"brewed     {status.brewed_last_hour} in the last hour{pace}"
    if status.waiting_count > status.delayed:
        yield f"empty in   {'?' if status.empty_in is None else span(status.empty_in)}"
    yield f"waiting {status.waiting_count}, locked {status.locked_count}, set aside {status.set_aside_count}"


def _failed(layer: FailedLayer) -> str:
    size = "?" if layer.size is None else layer.size
    return f"{layer.digest}  {size:>12}  {' '.join(layer.scopes) or 'repository unknown'}"


def status_json(status: QueueStatus) -> dict[str, object]:
    """Return the same as JSON values; times are Unix seconds."""
    values = asdict(status)
    values["waiting"] = {priority.name.lower(): layers for priority, layers in status.waiting.items()}
    values["waiting_count"] = status.waiting_count
    values["set_aside_count"] = status.set_aside_count
    values["manifests"] = {**asdict(status.manifests), "set_aside_count": status.manifests.set_aside_count}
    return values
