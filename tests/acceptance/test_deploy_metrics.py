"""deploy/alerts.yaml and deploy/grafana.json: every metric and label in them exists."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from core.metrics import ALL, PREFIX, Metric
from docker_torrents import parse_arguments
from tests.metrics import scrape
from tests.mirror_process import start_mirror
from tests.servers.process import require
from tests.servers.registry import Registry

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS, DASHBOARD = DEPLOY / "alerts.yaml", DEPLOY / "grafana.json"
_USED = re.compile(r"(?P<name>docker_torrents_\w+)(?:\{(?P<labels>[^}]*)\})?")
_LABEL = re.compile(r"(\w+) *(?:=~|!=|=)")
_BY = re.compile(r"\bby \(([^)]*)\)")
EVERYWHERE = {"le", "instance"}
"""Labels that Prometheus adds, or that every histogram has."""


def alerts() -> list[Any]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """Return all expressions of both files."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    targets = [target for panel in panels for target in panel.get("targets", ())]
    return [one["expr"] for one in alerts() + targets]


def samples_of(metric: Metric) -> list[str]:
    name = PREFIX + metric.name
    if metric.kind == "counter":
        return [f"{name}_total"]
    return [name] if metric.kind == "gauge" else [f"{name}_{part}" for part in ("bucket", "sum", "count")]


# tests/acceptance/test_metrics.py checks that the service exposes all of its metrics.
LABELS = {sample: set(metric.labels) for metric in ALL for sample in samples_of(metric)}


def test_alerts_and_dashboard_use_metrics_that_exist(tmp_path: Path, registry: Registry) -> None:
    with start_mirror(tmp_path, registry) as mirror:
        families = scrape(mirror.port).families
    mirrors = {f"{one.name}_total" if one.type == "counter" else one.name for one in families}

    used = {found["name"] for expression in expressions() for found in _USED.finditer(expression)}
    assert used - mirrors - LABELS.keys() == set()
    assert used & mirrors
    assert used & LABELS.keys()


@pytest.mark.parametrize("expression", [one for one in expressions() if "_mirror_" not in one])
def test_an_expression_uses_labels_that_its_metrics_have(expression: str) -> None:
    metrics = list(_USED.finditer(expression))
    known = EVERYWHERE.union(*(LABELS[found["name"]] for found in metrics))

    for found in metrics:
        assert set(_LABEL.findall(found["labels"] or "")) <= LABELS[found["name"]]
    for grouped in _BY.findall(expression):
        assert {label.strip() for label in grouped.split(",")} <= known


def test_promtool_accepts_the_alerts() -> None:
    promtool = require("promtool", "prometheus")
    subprocess.run([promtool, "check", "rules", ALERTS], check=True, timeout=60, capture_output=True)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_explains_itself_and_names_commands_that_exist(rule: Any) -> None:
    assert set(rule["annotations"]) == {"summary", "description"}
    for command in re.findall(r"`docker_torrents ([^`]+)`", rule["annotations"]["description"]):
        assert parse_arguments(command.split())


def fires(folder: Path, alert: str, series: dict[str, str], expected: list[dict[str, str]]) -> None:
    """Assert that, after four hours of these values a minute, the alert fires with exactly these labels."""
    [rule] = [rule for rule in alerts() if rule["alert"] == alert]
    # Its text is not tested here.
    del rule["annotations"]
    rules, cases = folder / "rules.yaml", folder / "cases.yaml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "tested", "rules": [rule]}]}))
    fired = [{"exp_labels": {**rule["labels"], **labels}} for labels in expected]
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [{"eval_time": "4h", "alertname": alert, "exp_alerts": fired}],
    }
    cases.write_text(yaml.safe_dump({"rule_files": [str(rules)], "tests": [case]}))
    promtool = require("promtool", "prometheus")
    tested = subprocess.run([promtool, "test", "rules", cases], timeout=60, capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_a_job_that_keeps_failing_raises_an_alert_even_if_it_runs_rarely(tmp_path: Path) -> None:
    runs = "docker_torrents_job_runs_total"
    series = {
        f'{runs}{{job_name="brew",outcome="failed"}}': "0+1x240",
        f'{runs}{{job_name="brew",outcome="done"}}': "0x240",
        f'{runs}{{job_name="prune",outcome="failed"}}': "0x59 1x59 2x59 3x59",
        f'{runs}{{job_name="prune",outcome="done"}}': "0x240",
        f'{runs}{{job_name="scan-tags",outcome="failed"}}': "0x59 1x180",
        f'{runs}{{job_name="scan-tags",outcome="done"}}': "0x119 1x59 2x59",
    }
    fires(tmp_path, "DockerTorrentsJobFails", series, [{"job_name": "brew"}, {"job_name": "prune"}])


@pytest.mark.parametrize(("last_brewed", "fired"), [("_x240", 1), ("0+60x240", 1), ("0+60x25 " * 10, 0)])
def test_waiting_layers_raise_an_alert_unless_any_brewer_works(
    tmp_path: Path, last_brewed: str, fired: int
) -> None:
    """The gauges come from the database, so brewers that cron starts count too."""
    series = {
        'docker_torrents_queue_layers{state="waiting",priority="pushed",instance="a"}': "7x240",
        'docker_torrents_queue_layers{state="waiting",priority="pushed",instance="b"}': "7x240",
        'docker_torrents_last_brewed_seconds{instance="a"}': last_brewed,
    }
    fires(tmp_path, "DockerTorrentsNothingBrewed", series, [{}] * fired)


def test_a_mirror_whose_downloads_keep_failing_raises_an_alert(tmp_path: Path) -> None:
    downloads = "docker_torrents_mirror_downloads"
    series = {
        f'{downloads}{{state="failed",instance="full"}}': " ".join(["1x4 0x2"] * 31),
        f'{downloads}{{state="failed",instance="once"}}': "0x229 1x4 0x9",
    }
    fires(tmp_path, "DockerTorrentsMirrorDownloadsFail", series, [{"state": "failed", "instance": "full"}])


@pytest.mark.parametrize(("peers", "web_seed", "fired"), [(0, 100, 1), (40, 60, 0), (0, 0, 0)])
def test_mirrors_that_do_not_reach_each_other_raise_an_alert(
    tmp_path: Path, peers: int, web_seed: int, fired: int
) -> None:
    received = "docker_torrents_mirror_layer_bytes_total"
    series = {
        f'{received}{{origin="peers",instance="a"}}': f"0+{peers}x240",
        f'{received}{{origin="web_seed",instance="a"}}': f"0+{web_seed}x240",
        f'{received}{{origin="registry",instance="a"}}': "0+100x240",
    }
    fires(tmp_path, "DockerTorrentsMirrorsDoNotShare", series, [{}] * fired)


def test_the_dashboard_is_laid_out_without_overlaps() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        own = {
            (place["x"] + x, place["y"] + y) for x in range(int(place["w"])) for y in range(int(place["h"]))
        }
        assert not own & cells
        cells |= own
