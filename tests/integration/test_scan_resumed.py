"""Interrupted scans are resumed; the rate of requests is limited."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from core.manifests.media_types import DOCKER_MANIFEST
from core.pace import Pace
from jobs.repository_scan import Scan
from jobs.scan_tags import scan_tags
from jobs.walk_repositories import walk_repositories
from sql.scopes import revoke_role
from sql.transaction import transaction
from tests.scanning import grant, image, manifest_of, queued, start_scan
from tests.servers.bad_http import in_turn, replying
from tests.servers.http_server import Answer, Connection, HttpServer, Request, start_http_server
from tests.servers.layers import digest_of

SCOPES = ("a", "b", "c", "d")


@pytest.fixture
def four() -> Iterator[HttpServer]:
    """A stand-in for a registry with four repositories, each with one tag and a different image."""
    with start_http_server() as server:
        for number, scope in enumerate(SCOPES):
            server.on(f"/v2/{scope}/tags/list*", replying(200, json.dumps({"tags": ["v1"]}).encode()))
            server.on(f"/v2/{scope}/manifests/*", image(number))
        yield server


@pytest.fixture
def scan(database_url: str, four: HttpServer) -> Iterator[Scan]:
    with start_scan(database_url, four.netloc) as scan:
        yield scan


def listed(server: HttpServer, before: int = 0) -> list[str]:
    """Return the repositories whose tags were listed, in order."""
    paths = [request.path for request in server.requests[before:]]
    return [path.split("/")[2] for path in paths if "/tags/list" in path]


def stopping_at(server: HttpServer, scope: str, scan: Scan) -> None:
    """Stop the scan when it reads a manifest of `scope`."""
    answer = image(SCOPES.index(scope))

    def stop(request: Request, connection: Connection) -> None:
        scan.service.stop.set()
        answer(request, connection)

    server.on(f"/v2/{scope}/manifests/*", stop)


def test_an_interrupted_scan_resumes_with_its_repository(scan: Scan, four: HttpServer) -> None:
    grant(scan, *SCOPES)
    stopping_at(four, "c", scan)

    assert scan_tags(scan).interrupted
    assert listed(four) == ["a", "b", "c"]

    scan.service.stop.clear()
    four.on("/v2/c/manifests/*", image(2))
    before = len(four.requests)
    assert not scan_tags(scan).interrupted
    assert listed(four, before) == ["c", "d"]
    assert len(queued(scan)) == 4

    before = len(four.requests)
    scan_tags(scan)
    assert listed(four, before) == [*SCOPES]


def test_a_cursor_whose_repository_lost_the_role_restarts_at_the_first(scan: Scan, four: HttpServer) -> None:
    grant(scan, *SCOPES)
    stopping_at(four, "c", scan)
    assert scan_tags(scan).interrupted
    scan.service.stop.clear()
    four.on("/v2/c/manifests/*", image(2))
    with transaction(scan.engine) as connection:
        revoke_role(connection, scan.service.tables, "b")
    before = len(four.requests)

    scan_tags(scan)
    assert listed(four, before) == ["a", "c", "d"]


def test_a_failing_repository_does_not_block_others_and_is_walked_next_time(
    scan: Scan, four: HttpServer
) -> None:
    grant(scan, *SCOPES)
    four.on("/v2/c/tags/list*", replying(503))
    stopping_at(four, "d", scan)
    assert scan_tags(scan).interrupted

    scan.service.stop.clear()
    four.on("/v2/d/manifests/*", image(3))
    before = len(four.requests)
    scan_tags(scan)
    assert listed(four, before) == ["d"]

    four.on("/v2/c/tags/list*", replying(200, b'{"tags": ["v1"]}'))
    scan_tags(scan)
    assert len(queued(scan)) == 4


def test_after_an_outage_the_walk_resumes_at_the_same_repository(scan: Scan, four: HttpServer) -> None:
    tags = [f"v{number}" for number in range(9)]
    grant(scan, *SCOPES)
    four.on("/v2/c/tags/list*", replying(200, json.dumps({"tags": tags}).encode()))
    four.on("/v2/c/manifests/*", replying(503))
    four.on("/v2/", replying(503))
    assert scan_tags(scan).failed == 5

    four.on("/v2/", replying(200))
    four.on("/v2/c/manifests/*", image(2))
    before = len(four.requests)
    scan_tags(scan)
    assert listed(four, before) == ["c", "d"]
    assert len(queued(scan)) == 4


def test_a_list_that_breaks_off_costs_no_more_than_what_is_behind_it(scan: Scan, four: HttpServer) -> None:
    def breaks_off(list_: str, *names: str) -> Answer:
        def page(request: Request, connection: Connection) -> None:
            if "last" in request.query:
                connection.reply(500, b"")
            else:
                onward = f'<{request.path}?last={names[-1]}>; rel="next"'
                connection.reply(200, json.dumps({list_: names}).encode(), {"Link": onward})

        return page

    grant(scan, "*")
    four.on("/v2/", replying(200))
    four.on("/v2/_catalog", breaks_off("repositories", "a", "b"))
    four.on("/v2/a/tags/list", breaks_off("tags", "v1"))

    summary = scan_tags(scan)

    assert (summary.failed, listed(four), len(queued(scan))) == (2, ["a", "a", "b"], 2)
    # What the list has is scanned again, not looked for behind its break for good.
    for number, image_of_b in enumerate((image(5), image(6))):
        four.on("/v2/b/manifests/*", image_of_b)
        scan_tags(scan)
        scan_tags(scan)
        assert len(queued(scan)) == 3 + number


def test_every_request_of_a_walk_is_paced(scan: Scan, four: HttpServer) -> None:
    index = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [
                {"mediaType": DOCKER_MANIFEST, "digest": digest_of(manifest_of(number)), "size": 100}
                for number in (7, 8)
            ],
        }
    ).encode()
    headers = {
        "Content-Type": "application/vnd.oci.image.index.v1+json",
        "Docker-Content-Digest": digest_of(index),
    }

    def pages(request: Request, connection: Connection) -> None:
        if "last" in request.query:
            connection.reply(200, b'{"tags":["v2"]}')
        else:
            connection.reply(200, b'{"tags":["v1"]}', {"Link": '</v2/deep/tags/list?last=v1>; rel="next"'})

    four.on("/v2/deep/tags/list", pages)
    four.on("/v2/deep/manifests/*", replying(200, index, headers))
    for number in (7, 8):
        four.on(f"/v2/deep/manifests/{digest_of(manifest_of(number))}", image(number))
    slept: list[float] = []
    pace = Pace(10, clock=lambda: 0.1 * len(slept), sleep=slept.append)

    walk_repositories(replace(scan, registry=scan.registry.paced(pace)), ["deep", "a"], "test")

    assert len(queued(scan)) == 3
    # There is no wait before the first request.
    assert len(slept) == len(four.requests) - 1


def test_a_stop_interrupts_the_wait_for_the_pace(scan: Scan, four: HttpServer) -> None:
    def stop_during_wait(seconds: float) -> None:
        assert seconds == 3600
        scan.service.stop.set()
        scan.service.stop.wait(seconds)

    hourly = Pace(1 / 3600, clock=lambda: 0.0, sleep=stop_during_wait)

    assert walk_repositories(replace(scan, registry=scan.registry.paced(hourly)), SCOPES, "test").interrupted
    assert len(four.requests) == 2


def test_a_dry_run_reports_what_is_known_below_unchanged_tags(scan: Scan, four: HttpServer) -> None:
    walk_repositories(scan, ["a", "b"], "test")

    summary = walk_repositories(replace(scan, dry_run=True), [*SCOPES, "a"], "test")

    assert (summary.queued, summary.known) == (2, 2)
    assert str(summary).startswith("would queue 2 layers (0.0 MB), already known 2, tags 5")
    assert len(queued(scan)) == 2


def test_a_walk_waits_for_a_registry_that_limits_requests(scan: Scan, four: HttpServer) -> None:
    slept: list[float] = []
    too_fast = replying(429, headers={"Retry-After": "7"}), replying(429)
    four.on("/v2/a/manifests/*", in_turn(*too_fast, image(0)))
    registry = scan.registry.paced(Pace(None, sleep=slept.append))

    summary = walk_repositories(replace(scan, registry=registry), ["a"], "test")

    assert (slept, summary.failed, len(queued(scan))) == ([7, 2], 0, 1)


def test_a_registry_that_demands_a_long_pause_ends_the_walk(scan: Scan, four: HttpServer) -> None:
    grant(scan, *SCOPES)
    four.on("/v2/", replying(200))
    four.on("/v2/c/manifests/*", replying(429, headers={"Retry-After": "3600"}))
    slept: list[float] = []
    paced = replace(scan, registry=scan.registry.paced(Pace(None, sleep=slept.append)))

    assert "status 429" in str(scan_tags(paced).paused)
    assert (slept, listed(four), len(queued(scan))) == ([], ["a", "b", "c"], 2)

    four.on("/v2/c/manifests/*", image(2))
    before = len(four.requests)
    assert scan_tags(paced).failed == 0
    assert (listed(four, before), len(queued(scan))) == (["c", "d"], 4)
