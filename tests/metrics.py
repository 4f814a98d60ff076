"""What `/metrics` says, read by prometheus_client's own parser."""

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
        """The sum of the samples with this name, without the prefix, and these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"docker_torrents_{name}" and labels.items() <= sample.labels.items()
        )

    def names(self) -> set[str]:
        """The names of all samples."""
        return {sample.name for sample in self.samples}


def scrape(port: int) -> Scrape:
    """The metrics of the server at this port of this machine."""
    with requests.Session() as session:
        session.trust_env = False
        answer = session.get(f"http://127.0.0.1:{port}/metrics", timeout=60)
    answer.raise_for_status()
    return Scrape(answer.text)


def shows(port: int, condition: Callable[[Scrape], object]) -> Callable[[], bool]:
    """Whether the server's metrics fulfil a condition, for `comes_true`."""
    return lambda: bool(condition(scrape(port)))
