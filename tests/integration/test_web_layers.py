"""Web seeds: exactly the bytes of a layer, to holders of a capability for it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bottle
import pytest

import web.layers
from core.blobs.directory import DirectoryBlobs
from core.blobs.registry import RegistryBlobs
from core.digest import Digest
from core.layer import Layer
from core.torrents.capability import mint
from tests.memory_source import Fault, MemorySource
from tests.servers.bad_http import replying
from tests.servers.http_server import start_http_server
from tests.servers.layers import layer_bytes
from tests.web_parts import NOON, SECRET, app_of, web_parts
from tests.wsgi import Answer, call, environ_of

CONTENT = layer_bytes(1_000_000)
LAYER = Digest(hashlib.sha256(CONTENT).hexdigest())
EMPTY = Digest(hashlib.sha256(b"").hexdigest())
GONE = Digest("c" * 64)
ETAG = f'"{LAYER}"'


@pytest.fixture
def source() -> MemorySource:
    return MemorySource({LAYER: CONTENT, EMPTY: b""})


@pytest.fixture
def app(tmp_path: Path, source: MemorySource) -> Iterator[bottle.Bottle]:
    parts = web_parts(tmp_path, source=source)
    yield app_of(parts)
    assert source.open_readers == set(), "a reader was left open"
    parts.engine.dispose()


def url(digest: Digest = LAYER, *, expires: int = NOON + 60, secret: bytes = SECRET) -> str:
    return f"/v0/layers/{mint(secret, digest, 'library/test', expires)}/{digest.hex}"


def get(app: bottle.Bottle, path: str, method: str = "GET", **headers: str) -> Answer:
    return call(app, method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_the_whole_layer_is_sent_with_its_length_and_a_strong_etag(app: bottle.Bottle) -> None:
    answer = get(app, url())
    assert (answer.status, answer.body == CONTENT) == (200, True)
    assert answer.headers["Content-Length"] == "1000000"
    assert answer.headers["ETag"] == ETAG
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("span", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-65535", 0, 65536),
        ("bytes=999999-", 999_999, 1_000_000),
        ("bytes=300000-700000", 300_000, 700_001),
        ("bytes=500000-", 500_000, 1_000_000),
        ("bytes=-1", 999_999, 1_000_000),
        ("bytes=-9999999", 0, 1_000_000),
        ("bytes=0-9999999", 0, 1_000_000),
    ],
)
def test_a_range_is_206_with_exactly_these_bytes(app: bottle.Bottle, span: str, start: int, end: int) -> None:
    answer = get(app, url(), Range=span)
    assert (answer.status, answer.body == CONTENT[start:end]) == (206, True)
    assert answer.headers["Content-Range"] == f"bytes {start}-{end - 1}/1000000"
    assert answer.headers["Content-Length"] == str(end - start)


def test_only_the_range_is_read_from_the_source(app: bottle.Bottle, source: MemorySource) -> None:
    get(app, url(), Range="bytes=300000-300009")
    assert source.opened == [(300_000, 10)]


@pytest.mark.parametrize("span", ["bytes=1000000-", "bytes=-0", "bytes=99999999999999999999-"])
def test_a_range_beyond_the_end_is_416_with_the_size(app: bottle.Bottle, span: str) -> None:
    answer = get(app, url(), Range=span)
    assert answer.status == 416
    assert answer.headers["Content-Range"] == "bytes */1000000"
    assert json.loads(answer.body)["errors"][0]["code"] == "RANGE_INVALID"


@pytest.mark.parametrize(
    "span", ["bytes=5-4", "bytes=a-", "pieces=0-1", "bytes=0-1,4-5", "bytes", "\xff\xfe", "bytes=\xb2-3"]
)
def test_several_and_malformed_ranges_return_the_whole_layer(app: bottle.Bottle, span: str) -> None:
    answer = get(app, url(), Range=span)
    assert (answer.status, answer.body == CONTENT) == (200, True)


def test_if_range_with_another_etag_returns_the_whole(app: bottle.Bottle) -> None:
    assert get(app, url(), Range="bytes=0-0", If_Range=ETAG).status == 206
    assert get(app, url(), Range="bytes=0-0", If_Range='"other"').status == 200
    assert get(app, url(), Range="bytes=0-0", If_Range="Wed, 21 Oct 2015 07:28:00 GMT").status == 200


def test_a_client_with_the_layer_gets_304_and_nothing_is_read(
    app: bottle.Bottle, source: MemorySource
) -> None:
    answer = get(app, url(), If_None_Match=ETAG)
    assert (answer.status, answer.body, answer.headers["ETag"]) == (304, b"", ETAG)
    assert source.opened == []


def test_head_returns_the_headers_of_the_whole_layer_without_reading(
    app: bottle.Bottle, source: MemorySource
) -> None:
    answer = get(app, url(), "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == "1000000"
    assert answer.headers["ETag"] == ETAG
    assert source.opened == []


def test_an_empty_layer_is_an_empty_answer(app: bottle.Bottle) -> None:
    for asked in [{}, {"Range": "bytes=-5"}]:
        answer = get(app, url(EMPTY), **asked)
        assert (answer.status, answer.body, answer.headers["Content-Length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    "path",
    [
        url(expires=NOON),
        url(expires=NOON - 1),
        url(secret=b"another"),
        url()[:-65] + "/" + GONE.hex,
        url().replace("/v0/layers/", "/v0/layers/x"),
        "/v0/layers/" + url().split("/")[3][:-2] + "/" + LAYER.hex,
        "/v0/layers//" + LAYER.hex,
        "/v0/layers/a/" + LAYER.hex,
        url().upper().replace("/V0/LAYERS", "/v0/layers"),
        url()[:-1],
        url() + "a",
        url() + "%00",
        url() + "%ff",
        url().replace("/v0/layers/", "/v0/layers/%ff"),
        url() + "/",
        "/v0/layers/x",
        url() + "/../../etc/passwd",
        "/v0/layers/" + "A" * 5000 + "/" + LAYER.hex,
        "/v0/layers/%ff%fe/" + LAYER.hex,
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_without_a_valid_capability_the_layer_is_refused(
    app: bottle.Bottle, source: MemorySource, path: str, method: str
) -> None:
    answer = get(app, path, method)
    assert answer.status in (403, 404)
    assert source.opened == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_layer_missing_from_the_source_is_404(app: bottle.Bottle, method: str) -> None:
    assert get(app, url(GONE), method).status == 404


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault("refused connection"), 502),
        (Fault("unavailable"), 502),
        (Fault("timeout"), 504),
        (Fault("cut"), 502),
    ],
    ids=lambda given: str(given),
)
def test_a_source_that_fails_at_once_is_reported_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: Fault, status: int
) -> None:
    source = MemorySource({LAYER: CONTENT}, faults=[fault, fault])
    app = app_of(web_parts(tmp_path, source=source))
    for _ in range(2):
        answer = get(app, url())
        assert answer.status == status
        assert json.loads(answer.body)["errors"][0]["code"] == "UNAVAILABLE"
    assert source.open_readers == set()
    assert get(app, url()).status == 200
    failed, works = caplog.messages
    assert failed.startswith("layer source failed reason=")
    assert re.fullmatch(r"layer source works again seconds=\d+ failures=2", works)


def test_a_source_that_fails_in_the_middle_truncates_the_answer(tmp_path: Path) -> None:
    source = MemorySource({LAYER: CONTENT}, faults=[Fault("cut", after=600_000)])
    answer = get(app_of(web_parts(tmp_path, source=source)), url())
    assert answer.headers["Content-Length"] == "1000000"
    # The server closes the connection of an answer that is shorter than its Content-Length.
    assert len(answer.body) < 1_000_000
    assert source.open_readers == set()


def test_a_source_that_ends_too_early_truncates_the_answer(tmp_path: Path) -> None:
    source = MemorySource({LAYER: CONTENT}, faults=[Fault("early end", after=600_000)])
    answer = get(app_of(web_parts(tmp_path, source=source)), url())
    assert answer.headers["Content-Length"] == "1000000"
    assert len(answer.body) < 1_000_000


def test_a_client_that_goes_away_closes_the_source(app: bottle.Bottle, source: MemorySource) -> None:
    answer = call(app, "GET", url(), chunks=1)
    assert len(answer.body) == web.layers.CHUNK_BYTES
    assert source.open_readers == set()


def test_a_client_that_goes_away_at_once_closes_the_source(app: bottle.Bottle, source: MemorySource) -> None:
    call(app, "GET", url(), chunks=0)
    assert source.open_readers == set()


def test_a_download_that_gets_no_turn_in_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web.layers, "DOWNLOADS", 3)
    monkeypatch.setattr(web.layers, "WAIT_SECONDS", 0.2)
    source = MemorySource({LAYER: CONTENT})
    app = app_of(web_parts(tmp_path, source=source))
    streams = [app(environ_of("GET", url(), {}), lambda status, headers, error=None: None) for _ in range(3)]
    refused = get(app, url())
    assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
    assert get(app, url(), "HEAD").status == 503
    assert get(app, url(), If_None_Match=ETAG).status == 304
    assert get(app, "/ping").status == 200
    streams.pop().close()  # type: ignore[attr-defined]  # a WSGI body
    for _ in range(5):
        assert get(app, url(), Range="bytes=0-9").body == CONTENT[:10]
        assert get(app, url(), Range="bytes=9999999-").status == 416
        assert get(app, url(), "HEAD").status == 200
        assert get(app, url(GONE)).status == 404
        assert get(app, url(GONE), "HEAD").status == 404
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]  # a WSGI body
    assert source.open_readers == set()


def test_the_whole_layer_comes_from_a_registry_that_ignores_ranges(tmp_path: Path) -> None:
    with start_http_server() as registry:
        registry.on(f"/v2/library/test/blobs/{LAYER}", replying(200, CONTENT))
        settings = {"docker_registry": {"host": registry.netloc, "proto": "http"}}
        parts = web_parts(tmp_path, settings=settings)
        app = app_of(replace(parts, source=RegistryBlobs(parts.registry)))
        assert get(app, url()).body == CONTENT
        assert get(app, url(), Range="bytes=0-").body == CONTENT
        assert get(app, url(), Range="bytes=5-9").status == 502
        app.close()
        parts.engine.dispose()


@pytest.mark.parametrize("kind", [MemorySource, DirectoryBlobs])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_source_that_hangs_before_its_headers_blocks_a_bounded_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: type[MemorySource | DirectoryBlobs]
) -> None:
    class Hanging(kind):  # type: ignore[misc, valid-type]
        def size(self, layer: Layer) -> int:
            asked.release()
            let_go.wait(60)
            return int(super().size(layer))

    template = "/{short_digest}/{full_digest}"
    file = tmp_path / LAYER.short / LAYER.hex
    file.parent.mkdir()
    file.write_bytes(CONTENT)
    source = Hanging({LAYER: CONTENT}) if kind is MemorySource else Hanging(tmp_path, template)
    asked, let_go = threading.Semaphore(0), threading.Event()
    monkeypatch.setattr(web.layers, "DOWNLOADS", 3)
    monkeypatch.setattr(web.layers, "WAIT_SECONDS", 0.2)
    app = app_of(web_parts(tmp_path, source=source))
    threads = [threading.Thread(target=get, args=(app, url(), method)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert asked.acquire(timeout=60)
    for again in ("GET", "HEAD"):
        assert get(app, url(), again).status == 503
    let_go.set()
    for thread in threads:
        thread.join()
    assert get(app, url(), method).status == 200


def test_many_at_once_get_their_own_bytes(app: bottle.Bottle) -> None:
    wrong: list[int] = []

    def read(number: int) -> None:
        start = number * 10_000
        if get(app, url(), Range=f"bytes={start}-{start + 400_000}").body != CONTENT[start : start + 400_001]:
            wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_no_capability_reaches_the_log(
    app: bottle.Bottle, source: MemorySource, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source.faults = [Fault("timeout")]
    for path in [url(), url(expires=NOON), url(GONE)]:
        capability = path.split("/")[3]
        for tried in [path, f"/v0/layers/{LAYER.hex}/{capability}", f"/v0/layers/{capability}"]:
            get(app, tried)
        assert capability not in caplog.text
    assert "expired" in caplog.text
