"""`/metrics`: the mirror's metrics for Prometheus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node.cache import Cache
from node.downloads import Downloads

_PREFIX = "docker_torrents_mirror"


class _Downloads(Collector):
    """Reads the counters of downloads and the cache when Prometheus scrapes."""

    def __init__(self, cache: Cache, downloads: Downloads) -> None:
        self._cache = cache
        self._downloads = downloads

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics; prometheus_client calls this."""
        totals, status, entries = self._downloads.totals(), self._downloads.status(), self._cache.entries()
        served = CounterMetricFamily(
            f"{_PREFIX}_layer_bytes", "Bytes of layers by source.", labels=["origin"]
        )
        for origin, count in sorted(totals.origins.items()):
            served.add_metric([origin], count)
        yield served
        yield CounterMetricFamily(
            f"{_PREFIX}_uploaded_bytes", "Bytes of layers sent to other machines.", value=totals.uploaded
        )
        fallbacks = CounterMetricFamily(
            f"{_PREFIX}_fallbacks", "Downloads that turned to the registry, by reason.", labels=["reason"]
        )
        for reason, count in sorted(totals.fallbacks.items()):
            fallbacks.add_metric([reason], count)
        yield fallbacks
        states = GaugeMetricFamily(
            f"{_PREFIX}_downloads", "Layers being downloaded or shared, by state.", labels=["state"]
        )
        for state, count in sorted(Counter(one.state for one in status).items()):
            states.add_metric([state], count)
        yield states
        peers = sum(one.peers for one in status)
        yield GaugeMetricFamily(f"{_PREFIX}_peers", "Connections to other machines.", value=peers)
        yield GaugeMetricFamily(f"{_PREFIX}_cache_layers", "Layers in the cache.", value=len(entries))
        size = sum(entry.size for entry in entries)
        yield GaugeMetricFamily(f"{_PREFIX}_cache_bytes", "Size of the cache.", value=size)


class Metrics:
    """This mirror's metrics: those of downloads and the cache, and a counter of answers."""

    def __init__(self, cache: Cache, downloads: Downloads) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Downloads(cache, downloads))
        self.answers = CounterMetric(
            f"{_PREFIX}_answers", "Answers to engines.", ["kind", "status"], registry=self.registry
        )
