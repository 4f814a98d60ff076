"""`/metrics` of the web app, without a server."""

from __future__ import annotations

from pathlib import Path

from tests.metrics import Scrape
from tests.web_server import front_of
from tests.wsgi import call


def test_metrics_are_for_the_configured_networks(tmp_path: Path) -> None:
    with front_of("127.0.0.1:1", tmp_path) as front:
        shown = call(front.app, "GET", "/metrics")
        refused = call(front.app, "GET", "/metrics", environ={"REMOTE_ADDR": "10.0.0.1"})

    assert Scrape(shown.body.decode()).value("database_up") == 1
    assert (shown.status, refused.status) == (200, 403)


def test_metrics_need_neither_the_registry_nor_the_database(tmp_path: Path) -> None:
    with front_of("127.0.0.1:1", tmp_path) as front:
        front.parts.engine.dispose()
        (tmp_path / "database.sqlite").unlink()
        (tmp_path / "database.sqlite").mkdir()
        shown = call(front.app, "GET", "/metrics")

    assert shown.status == 200
    assert Scrape(shown.body.decode()).value("database_up") == 0
