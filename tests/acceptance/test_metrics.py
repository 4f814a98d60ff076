"""`/metrics` of the real commands includes all their processes, even those that died."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from core.metrics import ALL, PREFIX, ReadGauge
from tests.constants import AMPLE_WAITS
from tests.installation import Installation, worker_pids
from tests.metrics import scrape, shows
from tests.notifications import envelope, event, reference
from tests.program import program
from tests.servers.layers import layer_bytes
from tests.servers.process import ServerProcess, free_port, listening
from tests.servers.push import PushedImage, push_image
from tests.servers.registry import Registry
from tests.servers.waiting import comes_true

KEY = "a key"
DIGEST = {"Accept": "application/vnd.docker.distribution.manifest.v2+json"}
NOT_ALWAYS = {f"{PREFIX}queue_oldest_waiting_seconds", f"{PREFIX}last_brewed_seconds"}
"""Gauges without a value while no layer waits, or none is brewed."""
Start = Callable[..., ServerProcess]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[ServerProcess] = []

    def run(installation: Installation, *words: str, port: int) -> ServerProcess:
        process = program(installation, *words, constants=AMPLE_WAITS, ready=listening(port))
        process.start()
        started.append(process)
        return process

    yield run
    for process in started:
        process.stop()


def installed(folder: Path, registry: Registry, port: int, **application: object) -> Installation:
    settings = {"port": port, "event_authorization": KEY, **application}
    return Installation(folder, registry, application=settings)


def get(port: int, path: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(f"http://127.0.0.1:{port}{path}", headers=DIGEST, timeout=60)


def post(port: int, body: bytes, key: str = KEY) -> int:
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": key}
        return session.post(
            f"http://127.0.0.1:{port}/v0/event", body, headers=headers, timeout=60
        ).status_code


def pushed(registry: Registry, scope: str, tag: str = "v1") -> tuple[PushedImage, bytes]:
    """Push an image of two layers, and return it with the notification."""
    image = push_image(registry, scope, tag, [layer_bytes(2000, 1), layer_bytes(3000, 2)])
    references = [reference(layer.digest, size=layer.size) for layer in image.layers]
    return image, envelope(event(digest=image.digest, repository=scope, references=references))


def test_the_daemon_has_metrics_of_jobs_and_requests_and_keeps_those_of_a_dead_worker(
    tmp_path: Path, registry: Registry, scope: str, start: Start
) -> None:
    port = free_port()
    installation = installed(tmp_path, registry, port)
    installation.grant(scope)
    process = start(installation, port=port)
    image, notification = pushed(registry, scope)

    assert post(port, notification, "wrong") == 401
    assert post(port, notification) == 200
    assert comes_true(shows(port, lambda now: now.value("brews_total", outcome="brewed") == 2))
    assert get(port, f"/v2/{scope}/manifests/v1").status_code == 200
    assert get(port, f"/{scope}").status_code == 404

    first = scrape(port)
    assert first.value("events_total", outcome="queued") == 1
    assert first.value("events_total", outcome="unauthorized") == 1
    assert first.value("http_requests_total", route="event", status="200") == 1
    assert first.value("http_requests_total", route="manifests", status="200") == 1
    assert first.value("http_requests_total", route="none", status="404") == 1
    assert first.value("layers_total", result="augmented") == 2
    assert first.value("brewed_bytes_total", backend="registry") == sum(one.size for one in image.layers)
    assert first.value("brew_seconds_total", backend="registry") > 0
    assert first.value("http_request_seconds_count", route="manifests") == 1
    assert first.value("job_seconds_count", job_name="brew") >= 1
    assert first.value("push_to_id_seconds_count") == 2
    assert first.value("job_runs_total", job_name="brew", outcome="done") >= 1
    assert first.value("job_last_success_timestamp_seconds", job_name="brew") > 0
    assert first.value("wait_seconds_count", resource="registry") > 0
    assert first.value("wait_seconds_count", resource="database") > 0
    assert first.value("database_up") == 1
    shown = {family.name for family in first.families}
    assert {PREFIX + metric.name for metric in ALL} - shown <= NOT_ALWAYS
    assert scope not in {label for sample in first.samples for label in sample.labels.values()}

    [worker] = worker_pids(process)
    os.kill(worker, signal.SIGKILL)
    assert comes_true(lambda: worker_pids(process) not in ([], [worker]) and listening(port)())
    second = scrape(port)
    assert second.value("http_requests_total", route="manifests", status="200") == 1
    assert second.value("brews_total", outcome="brewed") == 2

    shared = (installation.state / f"metrics-{port}").resolve()
    # Files of the parent and the worker; those of the dead one were merged.
    assert len(list(shared.glob("counter_*.db"))) == 2
    process.stop()
    assert not shared.exists()
    assert not os.path.lexists(installation.state / f"metrics-{port}")


def test_several_workers_show_the_sum_and_report_a_database_that_is_down(
    tmp_path: Path, registry: Registry, scope: str, start: Start
) -> None:
    port = free_port()
    installation = Installation(
        tmp_path,
        registry,
        application={"port": port, "event_authorization": KEY},
        db={"url": f"postgresql://nobody@127.0.0.1:{free_port()}/none", "connect_timeout": 0.2},
    )
    process = start(installation, "web", "--workers", "2", port=port)
    assert comes_true(lambda: len(worker_pids(process)) == 2)
    count = 0
    shared = installation.state / f"metrics-{port}"

    def both_have_answered() -> bool:
        nonlocal count
        count += 1
        assert get(port, "/ping").status_code == 200
        return len(list(shared.glob("counter_*.db"))) == 3

    assert comes_true(both_have_answered)
    assert post(port, pushed(registry, scope)[1]) == 503
    now = scrape(port)
    assert now.value("events_total", outcome="unavailable") == 1
    assert now.value("http_requests_total", route="ping") == count
    assert now.value("database_up") == 0
    assert f"{PREFIX}queue_layers" not in now.names()


def test_a_restart_after_a_kill_starts_with_empty_metrics(
    tmp_path: Path, registry: Registry, scope: str, start: Start
) -> None:
    port = free_port()
    installation = installed(tmp_path, registry, port)
    process = start(installation, "web", port=port)
    assert get(port, "/ping").ok
    _, notification = pushed(registry, scope)
    assert (post(port, notification), post(port, b"{")) == (200, 400)
    assert get(port, f"/v2/{scope}/manifests/v1").ok
    shown = scrape(port)
    assert shown.value("http_requests_total", route="ping") == 1
    assert shown.value("layers_total", result="missing") == 2
    # The repository does not have the role.
    assert shown.value("events_total", outcome="ignored") == 1
    assert shown.value("events_total", outcome="malformed") == 1
    before = (installation.state / f"metrics-{port}").resolve()
    process.kill()
    assert comes_true(lambda: not listening(port)())
    start(installation, "web", port=port)

    assert scrape(port).value("http_requests_total", route="ping") == 0
    assert not before.exists()


def test_the_scheduler_has_its_own_port(tmp_path: Path, registry: Registry, scope: str, start: Start) -> None:
    port = free_port()
    installation = installed(tmp_path, registry, free_port(), metrics_port=port)
    push_image(registry, scope, "v1", [layer_bytes(2000, 1)])
    installation.run("backfill", "repository", scope)
    with closing(sqlite3.connect(installation.state / "docker_torrents.sqlite")) as database, database:
        database.execute(
            "INSERT INTO rbtorrent_mapping (digest, added, brew_lock) VALUES (?, 1, 1)",
            ("sha256:" + "0" * 64,),
        )
    start(installation, "scheduler", port=port)

    assert comes_true(shows(port, lambda now: now.value("brews_total", outcome="brewed") == 1))
    # The layer, whose brewer died, is not in the registry.
    assert comes_true(shows(port, lambda now: now.value("brews_total", outcome="failed") == 1))
    now = scrape(port)
    assert now.value("locks_released_total") == 1
    assert now.value("push_to_id_seconds_count") == 0
    assert now.value("build_info") == 1
    for metric in ALL:
        if isinstance(metric, ReadGauge) and PREFIX + metric.name not in NOT_ALWAYS:
            assert PREFIX + metric.name in now.names()


def test_the_scheduler_closes_connections_from_other_networks(
    tmp_path: Path, registry: Registry, start: Start
) -> None:
    port = free_port()
    installation = installed(
        tmp_path, registry, free_port(), metrics_port=port, status_networks=["10.0.0.0/8"]
    )
    start(installation, "scheduler", port=port)

    with pytest.raises(requests.ConnectionError):
        get(port, "/metrics")
