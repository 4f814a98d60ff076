"""The .torrent of a layer: for authorised callers, with the current trackers and web seeds."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import bottle
import libtorrent
import pytest

from core.digest import Digest
from core.errors import StoreFailed
from core.layer import Layer
from core.torrents.capability import verify
from core.torrents.hashing import hash_layer
from core.torrents.metainfo import build_metainfo
from core.torrents.piece_length import piece_length
from sql.tables import Priority
from tests.integration.sql.database import Database
from tests.memory_source import MemorySource
from tests.servers.layers import layer_bytes
from tests.web_parts import NOON, SECRET, Door, Parts, app_of, rows, web_parts
from tests.wsgi import Answer, call

CONTENT = layer_bytes(300_000)
LAYER = Digest(hashlib.sha256(CONTENT).hexdigest())
UNBREWED = Digest("a" * 64)
TORRENTS = {
    "trackers": ["http://tracker.example:6969/announce", "udp://tracker.example:6969"],
    "web_seeds": [
        "{public_url}/v0/layers/{capability}/{hex}",
        "http://registry.example/v2/{scope}/blobs/{digest}",
        "http://bucket.example/docker/registry/v2/blobs/sha256/{short_digest}/{hex}/data",
    ],
}
SETTINGS = {"application": {"public_url": "http://torrents.example/"}, "torrents": TORRENTS}


def brewed_parts(folder: Path, *, private: bool = True, **more: Any) -> Parts:
    parts = web_parts(folder, **{"settings": SETTINGS, **more})
    source = MemorySource({LAYER: CONTENT})
    with source.open(Layer(LAYER), 0) as reader:
        hashes = hash_layer(reader, len(CONTENT), piece_length(len(CONTENT)))
    parts.store.put(LAYER, build_metainfo(LAYER.hex, hashes, private).data)
    return parts


@pytest.fixture
def app(tmp_path: Path) -> bottle.Bottle:
    return app_of(brewed_parts(tmp_path))


def get(
    app: bottle.Bottle,
    scope: str = "library/test",
    digest: object = LAYER,
    method: str = "GET",
    **headers: str,
) -> Answer:
    return call(app, method, f"/v0/torrents/{scope}/{digest}", headers=headers)


def test_the_torrent_is_of_the_layer_and_private(app: bottle.Bottle) -> None:
    answer = get(app)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/x-bittorrent"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{LAYER.hex}.torrent"'
    torrent = libtorrent.torrent_info(answer.body)
    assert (torrent.name(), torrent.total_size(), torrent.priv()) == (LAYER.hex, 300_000, True)


def test_it_has_the_configured_trackers_in_order(app: bottle.Bottle) -> None:
    assert libtorrent.load_torrent_buffer(get(app).body).trackers == TORRENTS["trackers"]


def test_it_has_the_configured_web_seeds_with_all_fields_filled_in(app: bottle.Bottle) -> None:
    seeds = libtorrent.load_torrent_buffer(get(app).body).url_seeds
    here = [seed for seed in seeds if seed.startswith("http://torrents.example/v0/layers/")]
    assert len(here) == 1
    capability, hex_digits = here[0].removeprefix("http://torrents.example/v0/layers/").split("/")
    assert hex_digits == LAYER.hex
    granted = verify(SECRET, capability, LAYER, NOON)
    assert (granted.scope, granted.expires) == ("library/test", NOON + 86400)
    assert f"http://registry.example/v2/library/test/blobs/{LAYER}" in seeds
    blob = f"docker/registry/v2/blobs/sha256/{LAYER.short}/{LAYER.hex}/data"
    assert f"http://bucket.example/{blob}" in seeds
    assert len(seeds) == 3


def test_its_id_does_not_depend_on_the_fields(tmp_path: Path, app: bottle.Bottle) -> None:
    (tmp_path / "bare").mkdir()
    bare = app_of(brewed_parts(tmp_path / "bare", settings={"torrents": {"trackers": [], "web_seeds": []}}))
    plain = libtorrent.load_torrent_buffer(get(bare).body)
    assert (plain.trackers, plain.url_seeds) == ([], [])
    assert plain.ti.info_hash() == libtorrent.torrent_info(get(app).body).info_hash()


def test_it_must_not_be_cached(app: bottle.Bottle) -> None:
    answer = get(app)
    assert answer.headers["Cache-Control"] == "private, no-store"
    assert "ETag" not in answer.headers


def test_head_returns_only_the_headers(app: bottle.Bottle) -> None:
    answer = get(app, method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["Content-Length"] == get(app).headers["Content-Length"]


def test_a_refused_caller_gets_the_registrys_challenge_and_nothing_is_queued(tmp_path: Path) -> None:
    door = Door(open=False, pullers={("library/test", LAYER, "Basic good")})
    parts = brewed_parts(tmp_path, access=door)
    app = app_of(parts)
    assert get(app, Authorization="Basic good").status == 200
    for refused in [
        get(app),
        get(app, Authorization="Basic bad"),
        get(app, scope="library/other", Authorization="Basic good"),
        get(app, digest=UNBREWED, Authorization="Basic good"),
    ]:
        assert refused.status == 401
        assert refused.headers["WWW-Authenticate"] == 'Basic realm="tests"'
        assert json.loads(refused.body)["errors"][0]["code"] == "UNAUTHORIZED"
    assert rows(parts, parts.tables.mapping, "digest") == []


def test_a_digest_never_listed_as_a_layer_is_404_and_not_queued(tmp_path: Path) -> None:
    parts = web_parts(tmp_path, settings=SETTINGS)
    for method in ("GET", "HEAD"):
        answer = get(app_of(parts), digest=UNBREWED, method=method)
        assert (answer.status, answer.headers["Retry-After"]) == (404, "30")
    assert json.loads(get(app_of(parts), digest=UNBREWED).body)["errors"][0]["code"] == "TORRENT_UNKNOWN"
    assert rows(parts, parts.tables.mapping, "digest") == rows(parts, parts.tables.scope, "digest") == []


@pytest.mark.parametrize("how", ["backfilled", "by hand"])
def test_a_layer_not_brewed_yet_is_404_and_requested(tmp_path: Path, how: str) -> None:
    parts = web_parts(tmp_path, settings=SETTINGS)
    database = Database(parts.engine, parts.tables)
    if how == "backfilled":
        database.enqueue(str(UNBREWED), scope=None, priority=Priority.BACKFILLED, now=NOON)
    else:
        database.execute(f"INSERT INTO rbtorrent_mapping (digest, added) VALUES ('{UNBREWED}', {NOON})")
    for _ in range(2):
        answer = get(app_of(parts), digest=UNBREWED)
        assert (answer.status, answer.headers["Retry-After"]) == (404, "30")
        assert json.loads(answer.body)["errors"][0]["code"] == "TORRENT_UNKNOWN"
    queue = parts.tables.queue
    assert rows(parts, queue, "digest", "priority", "added") == [(str(UNBREWED), Priority.ASKED, NOON)]
    assert rows(parts, parts.tables.scope, "digest", "scope") == [(str(UNBREWED), "library/test")]


def test_with_the_database_down_torrents_are_still_served(tmp_path: Path) -> None:
    parts = brewed_parts(tmp_path)
    parts.engine.dispose()
    for file in tmp_path.glob("database.sqlite*"):
        file.unlink()
    (tmp_path / "database.sqlite").mkdir()
    assert get(app_of(parts)).status == 200
    assert get(app_of(parts), digest=UNBREWED).status == 404


def test_an_unreachable_store_is_503_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenStore:
        def get(self, digest: Digest) -> bytes:
            raise StoreFailed("here", "out of reach")

        def put(self, digest: Digest, data: bytes) -> None: ...

        def delete(self, digest: Digest) -> None: ...

        def check(self) -> str:
            return ""

    app = app_of(web_parts(tmp_path, settings=SETTINGS, store=BrokenStore()))
    for _ in range(2):
        answer = get(app)
        assert (answer.status, answer.headers["Retry-After"]) == (503, "5")
    [line] = caplog.messages
    assert line.startswith("metainfo store failed reason=torrent of sha256:")


def test_damaged_metainfo_is_not_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = brewed_parts(tmp_path)
    parts.store.put(LAYER, parts.store.get(LAYER)[:-20])
    answer = get(app_of(parts))
    assert answer.status == 500
    assert json.loads(answer.body)["errors"][0]["code"] == "UNKNOWN"
    assert f"brews it again digest={LAYER}" in caplog.text


@pytest.mark.parametrize(
    ("scope", "digest"),
    [
        ("..", LAYER),
        ("a/../b", LAYER),
        ("a//b", LAYER),
        ("Upper", LAYER),
        ("a" * 300, LAYER),
        ("a%00b", LAYER),
        ("a%2f%2e%2e%2fb", LAYER),
        ("%ff", LAYER),
        ("library/te%ffst", LAYER),
        ("library/test", f"{LAYER}%ff"),
        ("a", "latest"),
        ("a", "sha256:abc"),
        ("a", LAYER.hex),
        ("a", "sha512:" + "a" * 128),
        ("a", f"{LAYER}%0d%0aX-Injected:%201"),
    ],
)
def test_invalid_names_never_reach_the_store(app: bottle.Bottle, scope: str, digest: object) -> None:
    answer = get(app, scope=scope, digest=digest)
    assert answer.status in (400, 404)
    assert "X-Injected" not in answer.headers
    assert json.loads(answer.body)["errors"]


def test_no_capability_reaches_the_log(app: bottle.Bottle, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    seeds = libtorrent.load_torrent_buffer(get(app).body).url_seeds
    [seed] = [one for one in seeds if "/v0/layers/" in one]
    assert seed.split("/")[5] not in caplog.text
