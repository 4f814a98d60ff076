"""The table of metrics in docs/operations.md lists the declared ones."""

from __future__ import annotations

import re
from pathlib import Path

from core.metrics import ALL

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
_ROW = re.compile(r"^\| `(?P<name>[a-z_]+)` \|(?P<labels>[^|]*)\|", re.MULTILINE)


def test_the_table_has_each_metric_and_its_labels() -> None:
    text = PAGE.read_text().partition("\n## Metrics\n")[2].partition("\n## ")[0]
    shown = {row["name"]: tuple(re.findall(r"`(\w+)`", row["labels"])) for row in _ROW.finditer(text)}

    assert shown == {
        metric.name + ("_total" if metric.kind == "counter" else ""): metric.labels for metric in ALL
    }
