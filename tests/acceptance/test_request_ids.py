"""The id of a request or job run is the same in each log line and in requests to the registry."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.logs import FieldFormatter
from tests.installation import Installation
from tests.mirror_process import start_mirror
from tests.servers.bad_http import hanging_up, replying
from tests.servers.http_server import HttpServer, start_http_server
from tests.servers.waiting import comes_true
from tests.web_server import front_of

MANIFEST = "/v2/team/app/manifests/latest"
_ID = re.compile(r"request_id=(\S+)")


@pytest.fixture
def upstream() -> Iterator[HttpServer]:
    """A stand-in for the registry."""
    with start_http_server() as server:
        yield server


def ids_sent(upstream: HttpServer) -> set[str | None]:
    """Return the ids of all requests."""
    return {request.headers.get("X-Request-Id") for request in upstream.requests}


@pytest.mark.parametrize("own", [None, "trace-7"])
def test_of_the_web_app(
    upstream: HttpServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    own: str | None,
) -> None:
    monkeypatch.setattr(caplog.handler, "formatter", FieldFormatter())
    upstream.on("/*", hanging_up())
    with front_of(upstream.netloc, tmp_path) as front:
        front.get(MANIFEST, **({} if own is None else {"X_Request_Id": own}))

    [logged] = {_ID.findall(line)[-1] for line in caplog.text.splitlines() if "registry failed" in line}
    assert ids_sent(upstream) == {logged}
    assert own in (None, logged)


def test_of_a_job_run(upstream: HttpServer, tmp_path: Path) -> None:
    upstream.on("/*", replying(403, b"{}"))
    installation = Installation(tmp_path, upstream.netloc)
    installation.grant("team/app")

    ended = installation.run("run", "scan-tags", check=False)

    assert ended.returncode == 1
    [logged] = set(_ID.findall(ended.stderr))
    assert re.fullmatch("scan-tags-[0-9a-f]{16}", logged)
    assert ids_sent(upstream) == {logged}


def test_of_the_mirror_which_logs_as_configured(upstream: HttpServer, tmp_path: Path) -> None:
    upstream.on("/*", hanging_up())
    log = tmp_path / "mirror.log"
    with start_mirror(tmp_path, upstream.netloc, sections={"application": {"log_format": "json"}}) as mirror:
        answer = mirror.get(MANIFEST, headers={"X-Request-Id": "trace-7"})
        assert comes_true(lambda: "registry failed" in log.read_text())

    assert answer.status_code == 503
    [line] = [json.loads(line) for line in log.read_text().splitlines() if "registry failed" in line]
    assert line["request_id"] == "trace-7"
    assert ids_sent(upstream) == {"trace-7"}
