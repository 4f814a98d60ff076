"""Metrics from `/metrics`, parsed by prometheus_client."""

from __future__ import annotations

from collections.abc import Callable

import requests
from prometheus_client.parser import text_string_to_metric_families


class Scrape:
    """The samples of one answer."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Return the sum of the samples with this name, without the prefix, and these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"docker_torrents_{name}" and labels.items() <= sample.labels.items()
        )

    def names(self) -> set[str]:
        """Return the names of all samples."""
        return {sample.name for sample in self.samples}


def scrape(port: int) -> Scrape:
    """Return the metrics of the server at this port of this machine."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"http://127.0.0.1:{port}/metrics", timeout=60)
    answer.raise_for_status()
    return Scrape(answer.text)


def shows(port: int, condition: Callable[[Scrape], object]) -> Callable[[], bool]:
    """Return a function for `comes_true`: whether the server's metrics fulfil a condition."""
    return lambda: bool(condition(scrape(port)))
