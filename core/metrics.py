"""The service's metrics for Prometheus, and the text of `/metrics`.

Nothing is recorded before `start_metrics`. prometheus_client decides on import whether processes share their
values, so only functions of this file import it. The mirror's metrics: node/metrics.py.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from core.metrics_files import adopt_dead_files, create_directory, remove_directory, value_files

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric as Family

PREFIX = "docker_torrents_"

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

_Labels = tuple[str, ...]

log = logging.getLogger(__name__)

ALL: list[Metric] = []
"""All metrics, in the order in which they are declared below."""


class Metric:
    """A metric: its name without the prefix, its help text, and the names of its labels.

    The values of labels come from the code, never from a request: their number is bounded.
    """

    kind: ClassVar[Literal["counter", "gauge", "histogram"]]

    def __init__(self, name: str, help: str, *labels: str) -> None:
        self.name, self.help, self.labels = name, help, labels
        ALL.append(self)


class Recorded(Metric):
    """A metric whose values this process records."""

    def __init__(self, name: str, help: str, *labels: str, buckets: tuple[float, ...] = ()) -> None:
        super().__init__(name, help, *labels)
        self.buckets = buckets
        self._created: Any = None
        self._children: dict[_Labels, Any] = {}

    def start(self, registry: CollectorRegistry) -> None:
        """Record from now on."""
        import prometheus_client as library

        name, words, labels = PREFIX + self.name, self.help, self.labels
        self._children = {}
        if self.kind == "counter":
            self._created = library.Counter(name, words, labels, registry=registry)
        elif self.kind == "histogram":
            self._created = library.Histogram(name, words, labels, registry=registry, buckets=self.buckets)
        else:
            self._created = library.Gauge(name, words, labels, registry=registry, multiprocess_mode="max")

    def _write(self, method: str, value: float, labels: _Labels) -> None:
        if self._created is None:
            return
        try:
            child = self._children.get(labels)
            if child is None:
                child = self._created.labels(*labels) if labels else self._created
                self._children[labels] = child
            getattr(child, method)(value)
        except OSError:
            # The file of values cannot grow. The measured work continues.
            return


class Counter(Recorded):
    """A number that only grows."""

    kind = "counter"

    def count(self, *labels: str, amount: float = 1) -> None:
        """Add `amount`."""
        self._write("inc", amount, labels)


class Histogram(Recorded):
    """The number of values in each range."""

    kind = "histogram"

    def observe(self, value: float, *labels: str) -> None:
        """Add a value."""
        self._write("observe", value, labels)

    @contextmanager
    def timed(self, *labels: str) -> Iterator[None]:
        """Add the duration of the block in seconds, also if it raises."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.observe(time.perf_counter() - begun, *labels)


class LatestTime(Recorded):
    """A time in Unix seconds; of several processes the latest counts."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Set the time."""
        self._write("set", value, labels)


class ReadGauge(Metric):
    """A value that is read for each scrape, and passed to `render`."""

    kind = "gauge"


Readings = Mapping[ReadGauge, Mapping[_Labels, float]]
"""The values of gauges by their labels."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_JOB_SECONDS = (0.01, 0.1, 1.0, 10.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0)
_PUSH_SECONDS = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 21600.0, 86400.0)

HTTP_REQUESTS = Counter("http_requests", "Requests, by the name of the route.", "route", "status")
HTTP_REQUEST_SECONDS = Histogram(
    "http_request_seconds", "Time until the head of the answer.", "route", buckets=_SECONDS
)
WAIT_SECONDS = Histogram(
    "wait_seconds",
    "Time spent waiting: for the head of the registry's answer or a slot to request it, in a "
    "transaction of the database, for a slot to download.",
    "resource",
    buckets=_SECONDS,
)
LAYERS = Counter("layers", "Layers in augmented manifests: with an id, or without one.", "result")
EVENTS = Counter("events", "Notifications of the registry.", "outcome")
BREWS = Counter("brews", "Layers that brewers have finished or returned.", "outcome")
BREWED_BYTES = Counter("brewed_bytes", "Bytes of the layers brewed.", "backend")
BREW_SECONDS = Counter("brew_seconds", "Time spent on the layers brewed.", "backend")
PUSH_TO_ID_SECONDS = Histogram(
    "push_to_id_seconds",
    "Time from the notification of a push to the id, in whole seconds, of each layer.",
    buckets=_PUSH_SECONDS,
)
LOCKS_RELEASED = Counter("locks_released", "Released locks of brewers that died.")
# Not `job`: Prometheus adds a label of that name.
JOB_RUNS = Counter("job_runs", "Runs of scheduled jobs.", "job_name", "outcome")
JOB_SECONDS = Histogram("job_seconds", "How long runs of jobs took.", "job_name", buckets=_JOB_SECONDS)
JOB_LAST_SUCCESS = LatestTime(
    "job_last_success_timestamp_seconds", "When a run of the job last succeeded.", "job_name"
)
QUEUE_LAYERS = ReadGauge("queue_layers", "Layers in the queue.", "state", "priority")
QUEUE_OLDEST = ReadGauge(
    "queue_oldest_waiting_seconds", "Age of the layer that may be brewed and waits longest.", "priority"
)
LAST_BREWED = ReadGauge("last_brewed_seconds", "Time since any brewer last finished a layer.")
DATABASE_UP = ReadGauge("database_up", "1 if the database answers, else 0.")
BUILD_INFO = ReadGauge("build_info", "1; the version is in the label.", "version")

_registry: CollectorRegistry | None = None
_shared: Path | None = None


def start_metrics(shared: Path | None = None) -> None:
    """Start recording; once per process.

    Processes with the same directory `shared` show the sum of their values, including those of dead ones.
    Raises RuntimeError if prometheus_client was imported before, as it then does not share values.
    """
    global _registry, _shared
    if _registry is not None:
        return
    if shared is not None:
        if "prometheus_client" in sys.modules:
            raise RuntimeError("prometheus_client was imported before start_metrics")
        shared = shared.resolve()
        adopt_dead_files(shared)
        os.environ[_DIRECTORY] = str(shared)
    else:
        os.environ.pop(_DIRECTORY, None)
    from prometheus_client import CollectorRegistry

    _shared, _registry = shared, CollectorRegistry()
    for metric in ALL:
        if isinstance(metric, Recorded):
            metric.start(_registry)


@contextmanager
def shared_metrics(link: Path) -> Iterator[None]:
    """Record into a new directory, which `link` names within the block, for other processes to share.

    If it cannot be created, each process shows only its own values.
    """
    try:
        create_directory(link)
    except OSError as error:
        log.warning("metrics are not shared, each worker shows its own reason=%s", error)
        start_metrics()
        yield
        return
    try:
        start_metrics(link)
        yield
    finally:
        remove_directory(link)


def render(readings: Readings) -> tuple[bytes, str]:
    """Return the text of `/metrics` and its content type: recorded metrics, and the gauges in `readings`."""
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.registry import Collector, CollectorRegistry

    families = _recorded()
    families.append(_gauge(BUILD_INFO, {(version(),): 1.0}))
    families.extend(_gauge(metric, values) for metric, values in readings.items())

    class Collected(Collector):
        def collect(self) -> Iterable[Family]:
            return families

    registry = CollectorRegistry()
    registry.register(Collected())
    return generate_latest(registry), CONTENT_TYPE_LATEST


def _recorded() -> list[Family]:
    """Return the metrics recorded by this process, or by all that share its directory."""
    if _registry is None:
        return []
    if _shared is None:
        return list(_registry.collect())
    from prometheus_client.multiprocess import MultiProcessCollector

    with value_files(_shared) as files:
        merged: Iterable[Family] = MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-untyped-call]
        return list(merged)


def _gauge(metric: ReadGauge, values: Mapping[_Labels, float]) -> Family:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(PREFIX + metric.name, metric.help, labels=metric.labels)
    for labels, value in sorted(values.items()):
        family.add_metric(labels, value)
    return family


@cache
def version() -> str:
    """Return the version of this program, or `unknown` if it is not installed."""
    try:
        return importlib.metadata.version("docker-torrents")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
